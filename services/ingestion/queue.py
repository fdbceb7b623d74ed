"""The leased queue: every write of a worker holds only while its lease is its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from weakref import WeakValueDictionary

from meshkit.database.pool import Connection, Database
from services.ingestion import versions
from services.ingestion.documents import Job
from services.ingestion.rows import job

_MINE = """
    WHERE document_id = $1 AND version = $2 AND lease_epoch = $3 AND state = 'processing'
"""

_LONGEST_REST = 8
"""Of a version that is held again and again, in first rests."""


class LeaseLost(Exception):
    """Another worker has the document, or it is being removed: stop, write nothing."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits over all projects."""

    queued: int
    processing: int
    oldest_seconds: float


class Queue:
    """Claims versions and records what becomes of them.

    Args:
        database: As the runtime role.
        owner: Name of this worker, for people who look at the table.
        lease_seconds: How long a claim holds without being extended.
        most_starts: Starts without progress after which a version is given up.
    """

    def __init__(
        self, database: Database, *, owner: str, lease_seconds: float, most_starts: int
    ) -> None:
        self._database = database
        self._owner = owner
        self._lease = timedelta(seconds=lease_seconds)
        self._most_starts = most_starts
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """One writer a document: of a process that freezes, one transaction at most holds the
        document's row, and those behind it do not take it over one after the other."""

    async def claim(self, without: Sequence[str] = ()) -> Job | None:
        """The next version to work on, leased; None when nothing waits.

        Args:
            without: Projects whose versions are left to wait.
        """
        async with self._database.connection() as connection:
            row = await connection.fetchrow(
                "SELECT * FROM ingestion.claim($1, $2, $3, $4)",
                *(self._owner, self._lease, self._most_starts, list(without)),
            )
        return None if row is None else job(row)

    async def expire_predecessor(self) -> int:
        """Ends the leases of a dead process of the same name; returns how many."""
        async with self._database.connection() as connection:
            ended: int = await connection.fetchval("SELECT ingestion.expire($1)", self._owner)
        return ended

    async def extend(self, mine: Job, stage: str, done: int, total: int) -> None:
        """Renews the lease and shows progress.

        Raises:
            LeaseLost: when it is no longer this worker's.
        """
        await self._write(
            mine,
            "lease_expires = now() + $4, stage = $5, done = $6, total = $7",
            *(self._lease, stage, done, total),
        )

    async def plan(
        self,
        mine: Job,
        *,
        digest: str,
        space: str,
        title: str,
        pages: int,
        chunks: int,
        warnings: list[str],
    ) -> None:
        """Records what reading and cutting the file came to.

        Digest and space are fixed here so that a resumed half fits the first.
        """
        await self._write(
            mine,
            "plan_digest = $4, title = $5, page_count = $6, chunk_count = $7, warnings = $8,"
            " space = $9, holds = 0",
            *(digest, title, pages, chunks, warnings, space),
        )

    async def keep(self, mine: Job, first: int, end: int) -> None:
        """Records that retrieval holds the chunks from `first` up to `end`. This is progress."""
        await self._write(
            mine,
            """(kept, indexed, done) = (
                SELECT range_agg(held), sum(upper(held) - lower(held)),
                       sum(upper(held) - lower(held))
                FROM unnest(kept + int8multirange(int8range($4, $5))) AS held
            ), starts_without_progress = 0, holds = 0, lease_expires = now() + $6""",
            *(first, end, self._lease),
        )

    async def forget_kept(self, mine: Job) -> None:
        """Makes the next attempt index every chunk again."""
        await self._write(mine, "kept = '{}', indexed = 0")

    async def finish(self, mine: Job) -> float:
        """The version is live: it is ready, and the one before is history.

        Returns:
            Seconds since it was queued, by Postgres' clock.
        """
        async with self._database.project(mine.project_id) as connection:
            await _lock(connection, mine)
            await _update(
                connection,
                mine,
                "state = 'ready', stage = '', done = chunk_count, total = chunk_count,"
                " error_reason = '', error_detail = '',"
                " lease_owner = '', lease_expires = NULL, starts_without_progress = 0",
            )
            await connection.execute(
                "UPDATE ingestion.document SET live_version = $2 WHERE document_id = $1",
                *(mine.document_id, mine.version),
            )
            await connection.execute(
                "UPDATE ingestion.document_version SET state = 'superseded', updated_at = now()"
                " WHERE document_id = $1 AND version < $2 AND state = 'ready'",
                *(mine.document_id, mine.version),
            )
            waited: float = await connection.fetchval(
                "SELECT extract(epoch FROM now() - queued_at)::float8"
                " FROM ingestion.document_version WHERE document_id = $1 AND version = $2",
                *(mine.document_id, mine.version),
            )
        return waited

    async def fail(self, mine: Job, reason: str, detail: str) -> None:
        """The version cannot become ready, for a reason a person can act on."""
        await self._write(
            mine,
            "state = 'failed', stage = '', error_reason = $4, error_detail = $5,"
            " lease_owner = '', lease_expires = NULL",
            *(reason, detail),
        )

    async def quarantine(self, mine: Job, reason: str, detail: str) -> None:
        """The version's file must not be opened any more, nor kept."""
        await self._write(
            mine,
            "state = 'quarantined', stage = '', error_reason = $4, error_detail = $5,"
            " lease_owner = '', lease_expires = NULL",
            *(reason, detail),
        )

    async def hold(self, mine: Job, reason: str, detail: str, seconds: float) -> None:
        """Puts the version back into the queue until what it needs is there again.

        Not counted against it, and shown as what it waits for. It rests longer each time,
        up to `_LONGEST_REST` times `seconds`.
        """
        await self._write(
            mine,
            "state = 'queued', lease_owner = '', lease_expires = NULL,"
            " starts_without_progress = greatest(0, starts_without_progress - 1),"
            " error_reason = $4, error_detail = $5, holds = holds + 1,"
            " not_before = now() + $6::interval * least(2 ^ least(holds, 16), $7::float8)",
            *(reason, detail, timedelta(seconds=seconds), _LONGEST_REST),
        )

    async def give_back(self, mine: Job, *, seconds: float = 0.0, counted: bool = False) -> None:
        """Puts the version back into the queue.

        Args:
            mine: The version.
            seconds: How long nobody shall take it.
            counted: Whether this start counts against it; not when it was stopped
                or when another service was away.
        """
        await self._write(
            mine,
            "state = 'queued', lease_owner = '', lease_expires = NULL, not_before = now() + $4,"
            " error_reason = '', error_detail = '',"
            " starts_without_progress = greatest(0, starts_without_progress - $5)",
            *(timedelta(seconds=seconds), 0 if counted else 1),
        )

    async def restart(self, mine: Job) -> None:
        """Queues the file as a new version, because this one's cuts no longer hold.

        Chunks of a version never change once written; a new policy or tokenizer
        makes others.
        """
        async with self._database.project(mine.project_id) as connection:
            await _lock(connection, mine)
            await _update(
                connection,
                mine,
                "state = 'superseded', stage = '', lease_owner = '', lease_expires = NULL",
            )
            latest = await connection.fetchval(
                "SELECT latest_version FROM ingestion.document WHERE document_id = $1",
                mine.document_id,
            )
            if latest == mine.version:
                await versions.copy_latest(connection, mine.document_id)
                await versions.wake_workers(connection)

    async def backlog(self) -> Backlog:
        """What waits, over all projects."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow("SELECT * FROM ingestion.backlog()")
        assert row is not None
        return Backlog(row["queued"], row["processing"], row["oldest_seconds"])

    async def _write(self, mine: Job, assignments: str, *values: object) -> None:
        turn = self._turns.setdefault(mine.document_id, asyncio.Lock())
        async with turn, self._database.project(mine.project_id) as connection:
            await _update(connection, mine, assignments, *values)


async def _lock(connection: Connection, mine: Job) -> None:
    """Locks the document's row first, as everyone does who writes more than one row."""
    found = await connection.fetchval(
        "SELECT true FROM ingestion.document WHERE document_id = $1 FOR UPDATE", mine.document_id
    )
    if not found:
        raise LeaseLost


async def _update(connection: Connection, mine: Job, assignments: str, *values: object) -> None:
    status = await connection.execute(
        f"UPDATE ingestion.document_version SET {assignments}, updated_at = now() {_MINE}",  # noqa: S608
        *(mine.document_id, mine.version, mine.lease_epoch, *values),
    )
    if status != "UPDATE 1":
        raise LeaseLost
