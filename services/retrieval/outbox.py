"""Keeping the lexical index in step with Postgres.

Every change of what the index must hold queues an entry in `lexical_outbox`, in
the transaction that makes the change. An entry names a version and says only
"make the index agree with Postgres about it": what to do is read when it is
done. So entries may be replayed, repeated and reordered. They are removed after
the index has taken them; a crash in between means doing the work again.

A process works on a batch while its transaction holds the documents' locks, so of
each document at most one process is at work, whatever their number. The batch's
revision is taken after the locks and before the reading: what a frozen process
writes after it has lost its locks is older than what was written meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from meshkit.database.pool import Connection, Database
from meshkit.errors import Internal, Unavailable
from meshkit.logging import logger
from meshkit.telemetry import metrics
from services.retrieval.lexical import (
    Changes,
    LexicalChunk,
    LexicalIndex,
    LexicalVersion,
    VersionKey,
)

log = logger(__name__)

BATCH_ENTRIES = 64
BATCH_CHUNKS = 4000
PAGE_VERSIONS = 200
LONGEST_PAUSE = 30.0
"""Seconds between attempts while the index takes nothing."""
DEFER_AT_MOST = timedelta(hours=1)
FIRST_LOOK, LAST_LOOK = 0.01, 0.25
"""Seconds between looks at a version that another process is indexing."""

_behind = metrics.gauge("citemesh.retrieval.outbox.entries")
_lag = metrics.gauge("citemesh.retrieval.outbox.lag")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the outbox."""

    seq: int
    key: VersionKey

    @property
    def whole_project(self) -> bool:
        """True for the purge of a project."""
        return self.key.document_id == ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rebuild is."""

    done: int
    total: int
    switched: bool = False


async def read_version(connection: Connection, key: VersionKey) -> LexicalVersion | None:
    """What the index must hold of a version; None when it must hold nothing.

    The connection is in a transaction, which sees the version's project from now on.
    """
    where = (key.project_id, key.document_id, key.version)
    await connection.execute("SELECT set_config('citemesh.project_id', $1, true)", key.project_id)
    staged = await connection.fetchrow(
        "SELECT title, labels, allow FROM retrieval.document_version "
        "WHERE project_id = $1 AND document_id = $2 AND version = $3",
        *where,
    )
    if staged is None:
        return None
    rows = await connection.fetch(
        "SELECT id, body, headings, language FROM retrieval.chunk "
        "WHERE project_id = $1 AND document_id = $2 AND version = $3 ORDER BY ordinal",
        *where,
    )
    return LexicalVersion(
        key=key,
        title=staged["title"],
        labels=json.loads(staged["labels"]),
        allow=staged["allow"],
        chunks=[
            LexicalChunk(row["id"], row["body"], row["headings"], row["language"]) for row in rows
        ],
    )


class IndexFailed(Exception):
    """The index's disk failed; wrapped, or it would be taken for a database that is away."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


async def apply(
    connection: Connection, index: LexicalIndex, entries: Sequence[Entry]
) -> Sequence[Entry]:
    """Makes the index agree about a batch's first entries; returns those that are done.

    A purge ends the batch before it, or is alone in it. The connection is in a
    transaction that keeps other processes away from the entries' documents.
    """
    revision = await _revision(connection)
    if entries and entries[0].whole_project:
        await _purge(connection, index, entries[0].key.project_id, revision)
        return entries[:1]
    replace: list[LexicalVersion] = []
    delete: list[VersionKey] = []
    seen: set[VersionKey] = set()
    chunks = 0
    done = 0
    for entry in entries:
        if entry.whole_project or chunks >= BATCH_CHUNKS:
            break
        done += 1
        if entry.key in seen:
            continue
        seen.add(entry.key)
        version = await read_version(connection, entry.key)
        if version is None:
            delete.append(entry.key)
        else:
            replace.append(version)
            chunks += len(version.chunks)
    await _change(index, Changes(replace=replace, delete=delete, revision=revision))
    return entries[:done]


async def _change(index: LexicalIndex, changes: Changes) -> None:
    try:
        await index.apply(changes)
    except OSError as error:
        raise IndexFailed(error) from error


async def _purge(
    connection: Connection, index: LexicalIndex, project_id: str, revision: int
) -> None:
    # Normally nothing stays: but sequence numbers are taken before commits, so work of
    # a document that came after the purge may have been done before it.
    await connection.execute("SELECT set_config('citemesh.project_id', $1, true)", project_id)
    rows = await connection.fetch(
        "SELECT project_id, document_id, version FROM retrieval.document_version"
    )
    found = [await read_version(connection, _key(row)) for row in rows]
    stays = [version for version in found if version is not None]
    await _change(index, Changes(purge=[project_id], replace=stays, revision=revision))


async def _revision(connection: Connection) -> int:
    revision: int = await connection.fetchval("SELECT nextval('retrieval.lexical_revision')")
    return revision


async def fill(database: Database, target: LexicalIndex) -> AsyncIterator[Progress]:
    """Writes everything Postgres holds into an empty index."""
    async with database.connection() as connection:
        total = await connection.fetchval("SELECT retrieval.indexed_chunks()")
    after, done = VersionKey("", "", 0), 0
    while True:
        async with database.connection() as connection:
            rows = await connection.fetch(
                "SELECT * FROM retrieval.indexed_versions($1, $2, $3, $4)",
                after.project_id,
                after.document_id,
                after.version,
                PAGE_VERSIONS,
            )
        if not rows:
            return
        left = [_key(row) for row in rows]
        after = left[-1]
        while left:
            batch, left, revision = await _read(database, left)
            await target.apply(Changes(replace=batch, revision=revision))
            done += sum(len(version.chunks) for version in batch)
            yield Progress(done, max(total, done))


async def _read(
    database: Database, keys: Sequence[VersionKey]
) -> tuple[list[LexicalVersion], list[VersionKey], int]:
    """Versions of about a batch's size, the keys that are left, and the batch's revision."""
    batch: list[LexicalVersion] = []
    size = 0
    async with database.connection() as connection, connection.transaction():
        revision = await _revision(connection)
        for place, key in enumerate(keys):
            version = await read_version(connection, key)
            if version is not None:
                batch.append(version)
                size += len(version.chunks)
            if size >= BATCH_CHUNKS:
                return batch, list(keys[place + 1 :]), revision
    return batch, [], revision


class Rejected(Internal):
    """The index will not take a version; its entry is tried again later."""

    def __init__(self, key: VersionKey, error: Internal) -> None:
        super().__init__(error.reason, error.detail, metadata=error.metadata)
        self.key = key


class LexicalProjection:
    """The lexical index and the work that keeps it true."""

    def __init__(self, database: Database, index: LexicalIndex) -> None:
        self._database = database
        self._index = index
        self._turn = asyncio.Lock()
        """One batch of this process at a time: what waits meanwhile is in the next one."""
        self._singly = 0
        """Entries to be done one by one, after a batch was refused, to find the one to blame."""

    @property
    def index(self) -> LexicalIndex:
        """The index that answers searches now."""
        return self._index

    async def use(self, index: LexicalIndex) -> None:
        """Takes another index; the former one is closed once nobody writes to it."""
        async with self._turn:
            self._index, former = index, self._index
        if former is not index:
            await former.close()

    async def close(self) -> None:
        """Closes the index that is in use."""
        async with self._turn:
            await self._index.close()

    async def drain(self, limit: int = BATCH_ENTRIES) -> int:
        """Applies the oldest entries that nobody else works on; returns how many.

        Raises:
            Unavailable: when the index takes nothing now.
            Rejected: when it will not take one entry; the others can go on.
        """
        async with self._turn:
            return await self._drain(limit, None)

    async def _drain(self, limit: int, first: VersionKey | None) -> int:
        if self._singly:
            self._singly -= 1
            limit = 1
        try:
            return await self._batch(limit, first)
        except IndexFailed as failed:
            raise failed.error from failed
        except _Refused as refused:
            if len(refused.entries) > 1:
                self._singly = len(refused.entries)
                return len(refused.entries)
            entry = refused.entries[0]
            async with self._database.connection() as connection:
                await connection.execute(
                    "SELECT retrieval.outbox_defer($1, $2)", entry.seq, DEFER_AT_MOST
                )
            raise Rejected(entry.key, refused.error) from refused.error

    async def _batch(self, limit: int, first: VersionKey | None) -> int:
        async with self._database.connection() as connection, connection.transaction():
            rows = await connection.fetch(
                "SELECT * FROM retrieval.outbox_claim($1, $2, $3)",
                limit,
                first.project_id if first else "",
                first.document_id if first else "",
            )
            entries = [Entry(row["seq"], _key(row)) for row in rows]
            if not entries:
                return 0
            try:
                done = await apply(connection, self._index, entries)
            except Internal as error:
                raise _Refused(entries, error) from error
            await connection.execute(
                "SELECT retrieval.outbox_done($1)", [entry.seq for entry in done]
            )
            return len(done)

    async def reach(self, key: VersionKey) -> None:
        """Returns once nothing is queued for a version: the index agrees about it.

        Raises:
            Unavailable: when the index takes nothing now; the entry stays.
            Rejected: when the index will not take this version.
        """
        pause = FIRST_LOOK
        while True:
            async with self._turn:
                if not await self._waits(key):
                    return
                try:
                    done = await self._drain(BATCH_ENTRIES, key)
                except Rejected as rejected:
                    if rejected.key == key:
                        raise
                    continue
            if not done:
                # Another process is at work on it.
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, LAST_LOOK)

    async def _waits(self, key: VersionKey) -> bool:
        async with self._database.project(key.project_id) as connection:
            waits: bool = await connection.fetchval(
                "SELECT EXISTS (SELECT FROM retrieval.lexical_outbox WHERE project_id = $1 "
                "AND document_id = $2 AND version = $3)",
                key.project_id,
                key.document_id,
                key.version,
            )
        return waits

    async def run(self, wake: asyncio.Event, poll_seconds: float) -> None:
        """Drains for ever: when woken, and every `poll_seconds` besides.

        While the index takes nothing it is asked again after longer and longer pauses.
        """
        failures = 0
        while True:
            pause = poll_seconds
            try:
                while await self.drain():
                    failures = 0
                failures = 0
            except Rejected as rejected:
                log.error(
                    "lexical index refuses a version", reason=rejected.reason, key=rejected.key
                )
                continue
            except Unavailable as error:
                failures += 1
                log.warning("outbox waits", reason=error.reason)
                pause = _pause(poll_seconds, failures, error.retry_after or 0.0)
            except Exception:
                # Such as a full disk under the index: nothing is lost, the entries are there.
                failures += 1
                log.exception("outbox waits")
                pause = _pause(poll_seconds, failures, 0.0)
            await self._report()
            try:
                async with asyncio.timeout(pause):
                    await wake.wait()
            except TimeoutError:
                continue
            wake.clear()

    async def _report(self) -> None:
        try:
            async with self._database.connection() as connection:
                row = await connection.fetchrow("SELECT * FROM retrieval.outbox_backlog()")
        except Unavailable:
            # Said already by the drain, which needs it more.
            return
        if row is not None:
            _behind.set(row["entries"])
            _lag.set(row["oldest_seconds"])


class _Refused(Exception):
    """A batch that the index will never take as it is."""

    def __init__(self, entries: Sequence[Entry], error: Internal) -> None:
        super().__init__(error.reason)
        self.entries = entries
        self.error = error


def _pause(poll_seconds: float, failures: int, asked: float) -> float:
    """Seconds until the next attempt, spread so that replicas do not come at once."""
    grown = min(poll_seconds * 2.0 ** min(failures, 10), LONGEST_PAUSE)
    spread: float = random.uniform(0.5, 1.0)  # noqa: S311
    return min(max(grown, asked), LONGEST_PAUSE) * spread


def _key(row: Any) -> VersionKey:
    return VersionKey(row["project_id"], row["document_id"], row["version"])
