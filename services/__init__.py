"""The six gRPC services, one room each; none imports another."""
