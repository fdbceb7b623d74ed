"""What a client of citemesh installs: typed stubs and one small async client.

The stubs are `citemesh.<service>.v1`, generated from `protos/` when the package
is built; this package needs grpcio and protobuf and nothing else.
"""
