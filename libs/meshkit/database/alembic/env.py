"""What alembic runs for every schema; `meshkit.database.migrate` hands it the connection."""

from __future__ import annotations

from alembic import context

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    version_table="alembic_version",
    version_table_schema=attributes["schema"],
    transaction_per_migration=True,
    on_version_apply=attributes["applied"],
)
with context.begin_transaction():
    context.run_migrations()
