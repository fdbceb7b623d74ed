"""`make load`: what the mesh carries, how it fails beyond that, and what carries more.

A run starts a mesh of its own against the simulator of providers, drives it by two
models of users (closed by Locust, open by a process of its own), and writes one
report as HTML and JSON.
"""
