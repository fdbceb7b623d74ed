"""Revisions of schema `ingestion`."""
