"""Ingestion: files in, searchable documents out."""
