"""What a space lacks, and the lease of whoever fills it: schema `retrieval` of migration 0010.

One process at a time fills a space. Each write names the epoch of its lease and is
refused when another process has taken over, so no vector is written by two, and one
that was frozen changes nothing when it wakes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from meshkit.database.pool import Connection, Database
from services.retrieval.deletion import hold_off_purge
from services.retrieval.filling.batches import Lacking
from services.retrieval.passages import Vectors

# Locked while their vectors are written: chunks are deleted with their vectors, by
# whoever locks them first.
WRITE = """
    WITH held AS (
        SELECT c.id, c.project_id, c.document_id, c.version FROM retrieval.chunk c
        WHERE c.project_id = $1 AND c.id = ANY ($2::bigint[]) ORDER BY c.id FOR KEY SHARE
    )
    INSERT INTO retrieval.dense_{number:d} (chunk_key, project_id, document_id, version, embedding)
    SELECT h.id, h.project_id, h.document_id, h.version,
           ($3::real[])[ (k.place - 1) * $4::integer + 1 : k.place * $4::integer ]
               ::public.halfvec({dimensions:d})
    FROM unnest($2::bigint[]) WITH ORDINALITY AS k (key, place) JOIN held h ON h.id = k.key
    ON CONFLICT (chunk_key) DO NOTHING
"""
MISSING = """
    SELECT c.id, c.document_id, c.version, c.body, c.token_count
    FROM unnest($2::text[], $3::bigint[]) WITH ORDINALITY AS v (document_id, version, place)
    JOIN retrieval.chunk c ON c.project_id = $1 AND c.document_id = v.document_id
     AND c.version = v.version
    WHERE NOT EXISTS (SELECT FROM retrieval.dense_{number:d} e WHERE e.chunk_key = c.id)
    ORDER BY v.place, c.ordinal LIMIT $4
"""
# Counted, not computed: what is gone meanwhile, or was written by another, is so counted too.
SETTLE = """
    WITH now_lacking AS (
        SELECT v.document_id, v.version,
            (SELECT count(*) FROM retrieval.chunk c WHERE c.project_id = $2
             AND c.document_id = v.document_id AND c.version = v.version)
            - (SELECT count(*) FROM retrieval.dense_{number:d} e WHERE e.project_id = $2
               AND e.document_id = v.document_id AND e.version = v.version) AS lacking
        FROM unnest($3::text[], $4::bigint[]) AS v (document_id, version)
    ), filled AS (
        DELETE FROM retrieval.space_work w USING now_lacking n
        WHERE w.number = $1 AND w.project_id = $2 AND w.document_id = n.document_id
          AND w.version = n.version AND n.lacking <= 0
    )
    UPDATE retrieval.space_work w SET lacking = n.lacking, attempts = 0, reason = ''
    FROM now_lacking n
    WHERE w.number = $1 AND w.project_id = $2 AND w.document_id = n.document_id
      AND w.version = n.version AND n.lacking > 0
"""
LONGEST_REST = timedelta(hours=1)


class LeaseLost(Exception):
    """Another process fills the space, or nobody may any more: stop, write nothing."""


@dataclass(frozen=True, slots=True)
class Due:
    """A space that lacks something nobody is filling in."""

    number: int
    space: str


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to fill a space."""

    number: int
    space: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Versions:
    """Versions of one project that lack vectors, in the order they are filled."""

    project_id: str
    names: tuple[tuple[str, int], ...]
    """Document and version."""

    @property
    def columns(self) -> tuple[list[str], list[int]]:
        """The names as two columns."""
        return [name for name, _ in self.names], [version for _, version in self.names]


class SpaceWork:
    """Reads and writes what spaces lack.

    Args:
        database: The pool.
        owner: Name of this process, for people who look at the table.
        lease: How long a filler may be silent.
    """

    def __init__(self, database: Database, owner: str, lease: timedelta) -> None:
        self._database = database
        self._owner = owner
        self._lease = lease

    async def due(self) -> Sequence[Due]:
        """Spaces to fill that nobody fills."""
        async with self._database.connection() as connection:
            rows = await connection.fetch("SELECT number, space FROM retrieval.spaces_due()")
        return [Due(row["number"], row["space"]) for row in rows]

    async def claim(self, due: Due) -> Lease | None:
        """Takes the lease of a space; None when somebody else was faster."""
        async with self._database.connection() as connection:
            epoch = await connection.fetchval(
                "UPDATE retrieval.space_table SET lease_owner = $2, lease_epoch = lease_epoch + 1, "
                "lease_expires = now() + $3 WHERE number = $1 AND NOT paused "
                "AND duty IN ('followed', 'required') "
                "AND (lease_expires IS NULL OR lease_expires < now()) RETURNING lease_epoch",
                due.number,
                self._owner,
                self._lease,
            )
        return None if epoch is None else Lease(due.number, due.space, epoch)

    async def extend(self, lease: Lease) -> bool:
        """Keeps the lease; False when the space is paused.

        Raises:
            LeaseLost: it is another's.
        """
        async with self._database.connection() as connection:
            return not await _renew(connection, lease, self._lease)

    async def release(self, lease: Lease) -> None:
        """Gives the lease back, if it is still ours."""
        async with self._database.connection() as connection:
            await connection.execute(
                "UPDATE retrieval.space_table SET lease_expires = NULL, lease_owner = '' "
                "WHERE number = $1 AND lease_epoch = $2",
                lease.number,
                lease.epoch,
            )

    async def note(self, lease: Lease, trouble: str) -> None:
        """Shows operators why filling does not go on; empty when it does."""
        async with self._database.connection() as connection:
            await connection.execute(
                "UPDATE retrieval.space_table SET trouble = $3 "
                "WHERE number = $1 AND lease_epoch = $2 AND trouble <> $3",
                lease.number,
                lease.epoch,
                trouble,
            )

    async def next(self, lease: Lease, limit: int) -> list[Versions]:
        """Versions to fill, oldest first, those of a project together."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                "SELECT * FROM retrieval.space_next($1, $2)", lease.number, limit
            )
        found: dict[str, list[tuple[str, int]]] = {}
        for row in rows:
            found.setdefault(row["project_id"], []).append((row["document_id"], row["version"]))
        return [Versions(project, tuple(names)) for project, names in found.items()]

    async def missing(self, lease: Lease, versions: Versions, limit: int) -> list[Lacking]:
        """Chunks of the versions that lack a vector, in their order."""
        async with self._database.project(versions.project_id) as connection:
            rows = await connection.fetch(
                MISSING.format(number=lease.number),
                versions.project_id,
                *versions.columns,
                limit,
            )
        return [
            Lacking(row["id"], row["document_id"], row["version"], row["body"], row["token_count"])
            for row in rows
        ]

    async def write(
        self, lease: Lease, project_id: str, batch: Sequence[Lacking], vectors: Vectors
    ) -> None:
        """Stores the vectors of a batch; chunks deleted meanwhile are left out.

        Args:
            lease: Ours.
            project_id: Project of the batch.
            batch: The chunks.
            vectors: Shape (len(batch), dimensions), checked.

        Raises:
            LeaseLost: another process fills the space, or it was retired.
        """
        dimensions = vectors.shape[1]
        versions = sorted({(chunk.document_id, chunk.version) for chunk in batch})
        try:
            async with self._database.project(project_id) as connection:
                await hold_off_purge(connection, project_id)
                await _renew(connection, lease, self._lease)
                await connection.execute(
                    WRITE.format(number=lease.number, dimensions=dimensions),
                    project_id,
                    [chunk.key for chunk in batch],
                    vectors.ravel().tolist(),
                    dimensions,
                )
                await self._settle(connection, lease, Versions(project_id, tuple(versions)))
        except asyncpg.UndefinedTableError:
            raise LeaseLost from None

    async def settle(self, lease: Lease, versions: Versions) -> None:
        """Counts again what versions lack; those that lack nothing are done.

        Raises:
            LeaseLost: another process fills the space.
        """
        async with self._database.project(versions.project_id) as connection:
            await _renew(connection, lease, self._lease)
            await self._settle(connection, lease, versions)

    async def postpone(
        self, lease: Lease, versions: Versions, reason: str, rest: timedelta
    ) -> None:
        """Lets versions rest that cannot be filled now; longer each time."""
        async with self._database.project(versions.project_id) as connection:
            await _renew(connection, lease, self._lease)
            await connection.execute(
                "UPDATE retrieval.space_work w SET attempts = attempts + 1, reason = $5, "
                "not_before = now() + least($6::interval, $7::interval * 2 ^ least(attempts, 12)) "
                "FROM unnest($3::text[], $4::bigint[]) AS v (document_id, version) "
                "WHERE w.number = $1 AND w.project_id = $2 AND w.document_id = v.document_id "
                "AND w.version = v.version",
                lease.number,
                versions.project_id,
                *versions.columns,
                reason,
                LONGEST_REST,
                rest,
            )

    async def _settle(self, connection: Connection, lease: Lease, versions: Versions) -> None:
        await connection.execute(
            SETTLE.format(number=lease.number),
            lease.number,
            versions.project_id,
            *versions.columns,
        )


async def _renew(connection: Connection, lease: Lease, length: timedelta) -> bool:
    """Extends the lease and locks it for the transaction; True when the space is paused.

    Raises:
        LeaseLost: it is another's, or the space was retired.
    """
    paused: bool | None = await connection.fetchval(
        "UPDATE retrieval.space_table SET lease_expires = now() + $3 WHERE number = $1 "
        "AND lease_epoch = $2 AND duty IN ('followed', 'required') RETURNING paused",
        lease.number,
        lease.epoch,
        length,
    )
    if paused is None:
        raise LeaseLost
    return paused
