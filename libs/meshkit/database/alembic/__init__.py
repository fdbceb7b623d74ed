"""The environment alembic runs migrations in."""
