"""`make chaos-ingest`: uploads go on while services and Postgres are killed and frozen.

At the end every acknowledged document must be where its owner left it: ready exactly
once, failed for a true reason, or deleted and never found again.
"""
