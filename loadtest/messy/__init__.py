"""Messy files through a mesh: what becomes of each, as a user sees it."""
