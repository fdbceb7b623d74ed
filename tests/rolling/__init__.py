"""Callers who go on while something happens to a mesh, and what they saw."""
