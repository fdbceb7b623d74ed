"""The mesh's database inside the cluster."""

from __future__ import annotations

import asyncpg


async def create_database(maintenance_dsn: str, name: str) -> None:
    """Creates the database unless it exists; only roles that were granted it may connect later.

    Args:
        maintenance_dsn: URL of the superuser on a database that exists.
        name: an identifier of ours, never a user's word.
    """
    connection = await asyncpg.connect(maintenance_dsn, timeout=10)
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close(timeout=5)
