"""`make bench-scale`: the dense index as it grows, with few and with many projects in it."""
