"""`make faults`: every fault at every provider, asked about over HTTP of a real mesh."""
