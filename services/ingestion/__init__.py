"""Ingestion: files in, searchable documents out."""

import os

# This process starts readers, and uvloop forks to do so. gRPC's handlers of forks, which restart
# its threads in the child, crash every few readers before they begin (SIGSEGV in event_engine).
# Read when gRPC is first used, hence here.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
