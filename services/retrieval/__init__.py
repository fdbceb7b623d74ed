"""Retrieval: finds passages, and alone decides which version of a document is live."""
