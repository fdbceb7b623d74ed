"""Postgres: pools of runtime roles, the bootstrap of roles, and migrations."""
