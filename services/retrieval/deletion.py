"""Deleting rows for good: some chunks of a version, or everything of a project.

A purge leaves the project's id in `purged_project`, which refuses every later write.
Writers share an advisory lock that the purge takes alone: it waits for those that
have begun and removes what they wrote; those that come after see the id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meshkit.database.pool import Connection, Database

BESIDE_CHUNKS = (
    "document_version",
    "applied_request",
    "project_state",
    "lexical_outbox",
    "space_work",
)
"""Tables with project rows that a receipt does not count; retired versions go first."""
PURGE_LOCK = 0x72707267
"""First key of the lock; advisory locks are of the whole database, so each owner has its own."""
HOLD_SPACES = "SELECT pg_advisory_xact_lock_shared(1936744803, 0)"
"""No space is dropped before the transaction ends; the lock is `SPACES` of migration 0010."""


@dataclass(frozen=True, slots=True)
class Purge:
    """The receipt of a purge."""

    chunks: int
    documents: int


async def purge_project(database: Database, project_id: str) -> Purge:
    """Deletes every row of a project for ever, and queues the same for the lexical index."""
    async with database.project(project_id) as connection:
        # In the order of all others, or they would wait for each other in a circle: a
        # writer takes this lock before any row, the collector of garbage its retired version.
        await connection.execute(
            "SELECT pg_advisory_xact_lock($1, hashtext($2))", PURGE_LOCK, project_id
        )
        await connection.execute(
            "INSERT INTO retrieval.purged_project (project_id) VALUES ($1) ON CONFLICT DO NOTHING",
            project_id,
        )
        await connection.execute(HOLD_SPACES)
        await _delete(connection, "retired_version", project_id)
        for table in await _dense_tables(connection):
            await _delete(connection, table, project_id)
        chunks = await _delete(connection, "chunk", project_id)
        documents = await _delete(connection, "document", project_id)
        for table in BESIDE_CHUNKS:
            await _delete(connection, table, project_id)
        await connection.execute(
            "INSERT INTO retrieval.lexical_outbox (project_id, document_id, version) "
            "VALUES ($1, '', 0)",
            project_id,
        )
    return Purge(chunks=chunks, documents=documents)


async def hold_off_purge(connection: Connection, project_id: str) -> None:
    """Makes a purge of the project wait for the transaction, or waits for the purge."""
    await connection.execute(
        "SELECT pg_advisory_xact_lock_shared($1, hashtext($2))", PURGE_LOCK, project_id
    )


async def delete_chunks(connection: Connection, keys: Sequence[int]) -> None:
    """Deletes chunks of the connection's project with their vectors in every space."""
    await connection.execute(HOLD_SPACES)
    # A vector that a filler is about to write is waited for, and found below.
    await connection.execute(
        "SELECT FROM retrieval.chunk WHERE id = ANY ($1) ORDER BY id FOR UPDATE", keys
    )
    for table in await _dense_tables(connection):
        statement = f"DELETE FROM retrieval.{table} WHERE chunk_key = ANY ($1)"  # noqa: S608
        await connection.execute(statement, keys)
    await connection.execute("DELETE FROM retrieval.chunk WHERE id = ANY ($1)", keys)


async def _dense_tables(connection: Connection) -> list[str]:
    rows = await connection.fetch("SELECT number FROM retrieval.space_table")
    return [f"dense_{row['number']:d}" for row in rows]


async def _delete(connection: Connection, table: str, project_id: str) -> int:
    """Deletes the project's rows of one of our own tables; returns how many."""
    statement = f"DELETE FROM retrieval.{table} WHERE project_id = $1"  # noqa: S608
    done = await connection.execute(statement, project_id)
    return int(done.rpartition(" ")[2])
