"""Migrations: alembic, one version table per schema, one migrator at a time.

Each schema's owner writes numbered revisions in `<package>/versions/NNNN_*.py`.
See `meshkit.database.revisions` for how services wait for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from meshkit.components import SCHEMAS, Schema
from meshkit.database.bootstrap import readers
from meshkit.database.pgvector import check_installed
from meshkit.database.revisions import directory, revision
from meshkit.logging import logger

log = logger(__name__)

# One number for all schemas: a second migrator waits for the first.
LOCK = 0x63697465
LOCK_TIMEOUT = "5s"
"""A migration that cannot get a table's lock gives up rather than block readers."""
WAIT_SECONDS = 300.0


class MigrationBusy(RuntimeError):
    """Another migrator held the lock for too long."""


Applied = Callable[[Connection, Schema, int], None]
"""Called inside a revision's transaction, when it has done its work."""


async def migrate(admin_url: str, applied: Applied | None = None) -> dict[str, int]:
    """Brings every schema to this code's revision; returns revisions by schema.

    Args:
        admin_url: Data source name of a member of every owner role.
        applied: Looks at what each revision made.

    Raises:
        MigrationBusy: when another migrator does not end within five minutes.
        DatabaseUnfit: when the database's pgvector is missing or too old.
    """
    guard = await asyncpg.connect(admin_url)
    try:
        await check_installed(guard)
        await _acquire(guard)
        for schema in SCHEMAS:
            await _upgrade(admin_url, schema, applied)
        return {schema.name: await revision(guard, schema.name) for schema in SCHEMAS}
    finally:
        await guard.close()


async def _acquire(guard: asyncpg.Connection[asyncpg.Record]) -> None:
    """Polls for the lock: the blocking form deadlocks with CREATE INDEX CONCURRENTLY."""
    until = time.monotonic() + WAIT_SECONDS
    while not await guard.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
        if time.monotonic() > until:
            raise MigrationBusy("Another migration is running; it holds the lock for too long.")
        await asyncio.sleep(0.2)


async def _upgrade(admin_url: str, schema: Schema, applied: Applied | None) -> None:
    url = make_url(admin_url).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            await connection.execute(text(f"SET ROLE citemesh_{schema.name}_owner"))
            await connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
            await connection.execute(text(f"SET search_path = {schema.name}, public"))
            await connection.commit()
            await connection.run_sync(_run, schema, applied)
            await connection.commit()
    finally:
        await engine.dispose()


def _run(connection: Connection, schema: Schema, applied: Applied | None) -> None:
    def tell(*, step: Any, **_: Any) -> None:
        if applied is not None:
            applied(connection, schema, int(step.up_revision_id))

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "alembic"))
    config.set_main_option("version_locations", str(directory(schema) / "versions"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(connection=connection, schema=schema.name, applied=tell)
    command.upgrade(config, "head")
    for reader in readers(schema.name):
        connection.execute(text(f"GRANT SELECT ON {schema.name}.alembic_version TO {reader}"))
