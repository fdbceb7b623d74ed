"""Query vectors in Postgres: shared by all replicas, for providers that cost money or time.

A cache only: whatever goes wrong here makes a vector be computed again, and never
an answer fail. Writing happens beside the calls.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta

import asyncpg

from meshkit.database.pool import Database
from meshkit.errors import MeshError
from meshkit.logging import logger
from services.embedding.query_cache import CacheKey
from services.embedding.vectors import Vectors, from_bytes, to_bytes

log = logger(__name__)

CACHE_FAILURES = (MeshError, asyncpg.PostgresError, TimeoutError)
PURGE_GUARD = timedelta(minutes=10)
"""For so long after a purge nothing of that project is stored: other replicas may still
hold vectors that they have not written."""
PURGE_LOCK = 0x70757267
READ_SECONDS = 0.05
"""A cache that takes longer than this is not asked any further."""
FLUSH_SECONDS = 0.5
MOST_WAITING = 10_000
SWEEP_SECONDS = 3600.0
SWEPT_AT_ONCE = 5000


class StoredVectors:
    """Reads and writes schema `embedding`, tables `vector_cache` and `purge`.

    Args:
        database: Pool of this service.
        max_age: Age at which a vector is forgotten.
    """

    def __init__(self, database: Database, max_age: timedelta) -> None:
        self._database = database
        self._max_age = max_age
        self._waiting: dict[CacheKey, Vectors] = {}
        self._wake = asyncio.Event()

    async def read(self, keys: Sequence[CacheKey]) -> dict[CacheKey, Vectors]:
        """The stored vectors among the keys, which are of one project, space and task."""
        if not keys:
            return {}
        first = keys[0]
        by_hash = {key.text_sha256: key for key in keys}
        try:
            async with (
                asyncio.timeout(READ_SECONDS),
                self._database.connection() as connection,
            ):
                rows = await connection.fetch(
                    "SELECT text_sha256, vector FROM embedding.cached($1, $2, $3, $4)",
                    first.project_id,
                    first.space,
                    first.task.value,
                    list(by_hash),
                )
        except CACHE_FAILURES as error:
            log.warning("stored vectors not read", error=type(error).__name__)
            return {}
        return {by_hash[row["text_sha256"]]: from_bytes(row["vector"]) for row in rows}

    def write_later(self, key: CacheKey, vector: Vectors) -> None:
        """Notes a vector to be written; when too many wait it is let go."""
        if len(self._waiting) < MOST_WAITING:
            self._waiting[key] = vector.copy()
            self._wake.set()

    async def flush(self) -> None:
        """Writes what waits. What cannot be written is let go: it is a cache."""
        waiting, self._waiting = self._waiting, {}
        by_project: dict[str, dict[CacheKey, Vectors]] = defaultdict(dict)
        for key, vector in waiting.items():
            by_project[key.project_id][key] = vector
        for project_id, vectors in by_project.items():
            try:
                await self._write(project_id, vectors)
            except CACHE_FAILURES as error:
                log.warning("vectors not stored", error=type(error).__name__, count=len(vectors))

    async def _write(self, project_id: str, vectors: dict[CacheKey, Vectors]) -> None:
        keys = list(vectors)
        async with self._database.project(project_id) as connection:
            # A purge waits for this transaction, or this one sees the purge.
            await connection.execute(
                "SELECT pg_advisory_xact_lock_shared($1, hashtext($2))", PURGE_LOCK, project_id
            )
            await connection.execute(
                """
                INSERT INTO embedding.vector_cache (project_id, space, task, text_sha256, vector)
                SELECT $1, space, task, hash, vector
                FROM unnest($2::text[], $3::text[], $4::bytea[], $5::bytea[])
                     AS new (space, task, hash, vector)
                WHERE NOT EXISTS (
                    SELECT 1 FROM embedding.purge
                    WHERE project_id = $1 AND purged_at > now() - $6::interval
                )
                ON CONFLICT DO NOTHING
                """,
                project_id,
                [key.space for key in keys],
                [key.task.value for key in keys],
                [key.text_sha256 for key in keys],
                [to_bytes(vectors[key]) for key in keys],
                PURGE_GUARD,
            )

    async def purge(self, project_id: str) -> int:
        """Forgets a project's vectors and takes none of it for a while; returns how many.

        Raises:
            Unavailable: DATABASE_UNAVAILABLE: nothing may be called purged then.
        """
        self._waiting = {k: v for k, v in self._waiting.items() if k.project_id != project_id}
        async with self._database.project(project_id) as connection:
            await connection.execute(
                "SELECT pg_advisory_xact_lock($1, hashtext($2))", PURGE_LOCK, project_id
            )
            await connection.execute(
                "INSERT INTO embedding.purge (project_id) VALUES ($1) "
                "ON CONFLICT (project_id) DO UPDATE SET purged_at = now()",
                project_id,
            )
            done = await connection.execute(
                "DELETE FROM embedding.vector_cache WHERE project_id = $1", project_id
            )
        return int(done.rpartition(" ")[2])

    async def sweep(self) -> int:
        """Forgets vectors that are too old; returns how many."""
        total = 0
        while True:
            async with self._database.connection() as connection:
                gone: int = await connection.fetchval(
                    "SELECT embedding.sweep($1, $2, $3)", self._max_age, PURGE_GUARD, SWEPT_AT_ONCE
                )
            total += gone
            if gone < SWEPT_AT_ONCE:
                return total

    async def keep_writing(self) -> None:
        """Writes what is noted, a moment after it came, until cancelled; then the rest."""
        try:
            while True:
                await self._wake.wait()
                await asyncio.sleep(FLUSH_SECONDS)
                self._wake.clear()
                await self.flush()
        finally:
            await asyncio.shield(self.flush())

    async def keep_sweeping(self) -> None:
        """Sweeps now and every hour, until cancelled."""
        while True:
            try:
                if gone := await self.sweep():
                    log.info("old vectors forgotten", count=gone)
            except CACHE_FAILURES as error:
                log.warning("stored vectors not swept", error=type(error).__name__)
            await asyncio.sleep(SWEEP_SECONDS)
