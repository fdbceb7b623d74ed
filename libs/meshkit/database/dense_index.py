"""Rebuilding the vector index of an embedding space while everything goes on.

The index is there from a space's first row and follows every write. It is built anew
after much was deleted (an HNSW graph keeps its holes), and after a crash of a build.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import asyncpg

from meshkit.database.migrate import LOCK, MigrationBusy

ROW_OVERHEAD = 500
"""Bytes of a row in the graph under construction beside its vector: about 32 neighbours."""
LEAST_MEMORY = 64 * 1024 * 1024


class SpaceUnknown(LookupError):
    """No vector was ever written to a space of this name."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild did."""

    index: str
    rows: int
    seconds: float
    bytes_before: int
    bytes_after: int


def memory_for(rows: int, dimensions: int) -> int:
    """Bytes in which a graph of so many rows is built; with less it takes several times as long."""
    return max(LEAST_MEMORY, int(rows * (2 * dimensions + ROW_OVERHEAD) * 1.2))


async def rebuild(url: str, space: str, *, most_memory: int) -> Rebuilt:
    """Builds the index of a space anew; reads and writes go on, on the former one.

    Args:
        url: Data source name of a member of `citemesh_retrieval_owner`.
        space: Name of the space.
        most_memory: Bytes the build may take, however much it could use.

    Raises:
        SpaceUnknown: naming the spaces that exist.
        MigrationBusy: when a migration or another rebuild runs.
    """
    connection = await asyncpg.connect(url)
    try:
        # The session's lock, asked for without waiting: waiting for one deadlocks with
        # a concurrent build.
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
            raise MigrationBusy("A migration or another rebuild is running; try again later.")
        await connection.execute("SET ROLE citemesh_retrieval_owner")
        found = await _find(connection, space)
        await _sweep(connection, found["table_name"], found["index_name"])
        rows = await connection.fetchval(f"SELECT count(*) FROM {found['table_name']}")  # noqa: S608
        memory = min(most_memory, memory_for(rows, found["dimensions"]))
        await connection.execute(f"SET maintenance_work_mem = '{memory // 1024}kB'")
        started = time.monotonic()
        await connection.execute(f"REINDEX INDEX CONCURRENTLY {found['index_name']}", timeout=None)
        seconds = time.monotonic() - started
        after = await _find(connection, space)
        return Rebuilt(found["index_name"], rows, seconds, found["bytes"], after["bytes"])
    finally:
        await connection.close()


async def _find(connection: asyncpg.Connection[Any], space: str) -> Any:
    rows = await connection.fetch("SELECT * FROM retrieval.dense_index ORDER BY space, index_name")
    for row in rows:
        if row["space"] == space and not _left_over(row["index_name"]):
            return row
    known = ", ".join(sorted({row["space"] for row in rows})) or "none"
    raise SpaceUnknown(f"No space {space} holds vectors here; there is: {known}.")


def _left_over(index: str) -> bool:
    """Whether an index is what a concurrent build that broke off has left."""
    return "_ccnew" in index or "_ccold" in index


async def _sweep(connection: asyncpg.Connection[Any], table: str, index: str) -> None:
    rows = await connection.fetch(
        "SELECT index_name FROM retrieval.dense_index WHERE table_name = $1 AND index_name <> $2",
        table,
        index,
    )
    for row in rows:
        if _left_over(row["index_name"]):
            await connection.execute(f"DROP INDEX CONCURRENTLY {row['index_name']}")
