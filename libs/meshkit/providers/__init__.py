"""Providers of models: what their errors mean, what they cost, how they are reached.

The adapters that turn this into embeddings, scores and text stand beside the service that
uses them; here is what they share.
"""
