"""Measuring the mesh: benchmarks against the bare kernels, and load scenarios."""
