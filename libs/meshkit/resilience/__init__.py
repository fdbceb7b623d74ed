"""What keeps a failing provider from failing the mesh: breakers, back-off, buckets.

All of it is pure: no clock, no dice and no I/O of its own, so that a test can
live through a day of outage in a millisecond.
"""
