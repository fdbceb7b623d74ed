"""The other services as generation sees them: plain values in and out, protobuf in between."""
