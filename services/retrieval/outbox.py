"""Keeping the lexical index in step with Postgres.

Every change of what the index must hold queues an entry in `lexical_outbox`, in
the transaction that makes the change. An entry names a version and says only
"make the index agree with Postgres about it": what to do is read when it is
done. So entries may be replayed, repeated and reordered. They are removed after
the index has committed; a crash in between means doing the work again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from meshkit.database.pool import Database
from meshkit.errors import Unavailable
from meshkit.logging import logger
from meshkit.telemetry import meter
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

_behind = meter.create_gauge(
    "citemesh.retrieval.outbox.entries", unit="{entry}", description="Lexical work waiting."
)
_lag = meter.create_gauge(
    "citemesh.retrieval.outbox.lag", unit="s", description="Age of the oldest lexical work."
)


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


async def read_version(database: Database, key: VersionKey) -> LexicalVersion | None:
    """What the index must hold of a version; None when it must hold nothing."""
    where = (key.project_id, key.document_id, key.version)
    async with database.project(key.project_id) as connection:
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


class LexicalProjection:
    """The lexical index and the work that keeps it true."""

    def __init__(self, database: Database, index: LexicalIndex) -> None:
        self._database = database
        self._index = index
        self._turn = asyncio.Lock()
        self._touched: set[VersionKey] | None = None
        """During a rebuild: what changed since it began."""
        self._purged: set[str] = set()

    @property
    def index(self) -> LexicalIndex:
        """The index that answers searches now."""
        return self._index

    async def close(self) -> None:
        """Closes the index that is in use."""
        async with self._turn:
            await self._index.close()

    async def drain(self, limit: int = BATCH_ENTRIES) -> int:
        """Applies the oldest entries; returns how many."""
        async with self._turn:
            return await self._drain(limit)

    async def _drain(self, limit: int) -> int:
        async with self._database.connection() as connection:
            rows = await connection.fetch("SELECT * FROM retrieval.outbox_entries($1)", limit)
        entries = [Entry(row["seq"], _key(row)) for row in rows]
        if not entries:
            return 0
        done = await self._apply(entries)
        async with self._database.connection() as connection:
            await connection.execute(
                "SELECT retrieval.outbox_done($1)", [entry.seq for entry in done]
            )
        return len(done)

    async def _apply(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Applies entries up to a purge or a full batch; returns those that are done."""
        replace: list[LexicalVersion] = []
        delete: list[VersionKey] = []
        seen: set[VersionKey] = set()
        chunks = 0
        done = 0
        for entry in entries:
            if entry.whole_project:
                # Alone in its batch: within one, deletions come before additions.
                if done:
                    break
                await self._purge(entry.key.project_id)
                return entries[:1]
            done += 1
            if entry.key in seen:
                continue
            seen.add(entry.key)
            version = await read_version(self._database, entry.key)
            if version is None:
                delete.append(entry.key)
                continue
            replace.append(version)
            chunks += len(version.chunks)
            if chunks >= BATCH_CHUNKS:
                break
        await self._index.apply(Changes(replace=replace, delete=delete))
        self._note(seen)
        return entries[:done]

    async def _purge(self, project_id: str) -> None:
        await self._index.apply(Changes(purge=[project_id]))
        # Normally nothing: but sequence numbers are taken before commits, so work
        # of a document that came after the purge may have been done before it.
        async with self._database.project(project_id) as connection:
            rows = await connection.fetch(
                "SELECT project_id, document_id, version FROM retrieval.document_version"
            )
        keys = [_key(row) for row in rows]
        found = [await read_version(self._database, key) for key in keys]
        await self._index.apply(Changes(replace=[version for version in found if version]))
        self._note(keys, project_id)

    def _note(self, keys: Sequence[VersionKey] | set[VersionKey], purged: str = "") -> None:
        if self._touched is None:
            return
        self._touched.update(keys)
        if purged:
            self._purged.add(purged)

    async def reach(self, key: VersionKey) -> None:
        """Returns once nothing is queued for a version: the index agrees about it."""
        while True:
            async with self._turn:
                async with self._database.project(key.project_id) as connection:
                    waiting = await connection.fetchval(
                        "SELECT EXISTS (SELECT FROM retrieval.lexical_outbox WHERE project_id = $1 "
                        "AND document_id = $2 AND version = $3)",
                        key.project_id,
                        key.document_id,
                        key.version,
                    )
                if not waiting:
                    return
                await self._drain(BATCH_ENTRIES)

    async def run(self, wake: asyncio.Event, poll_seconds: float) -> None:
        """Drains for ever: when woken, and every `poll_seconds` besides."""
        while True:
            try:
                while await self.drain():
                    pass
                await self._report()
            except Unavailable as error:
                log.warning("outbox waits", reason=error.reason)
            try:
                async with asyncio.timeout(poll_seconds):
                    await wake.wait()
            except TimeoutError:
                continue
            wake.clear()

    async def _report(self) -> None:
        async with self._database.connection() as connection:
            row = await connection.fetchrow("SELECT * FROM retrieval.outbox_backlog()")
        if row is not None:
            _behind.set(row["entries"])
            _lag.set(row["oldest_seconds"])

    async def fill(self, target: LexicalIndex) -> AsyncIterator[Progress]:
        """Writes everything Postgres holds into an empty index."""
        async with self._database.connection() as connection:
            total = await connection.fetchval("SELECT retrieval.indexed_chunks()")
        after, done = VersionKey("", "", 0), 0
        while True:
            async with self._database.connection() as connection:
                rows = await connection.fetch(
                    "SELECT * FROM retrieval.indexed_versions($1, $2, $3, $4)",
                    after.project_id,
                    after.document_id,
                    after.version,
                    PAGE_VERSIONS,
                )
            if not rows:
                return
            batch: list[LexicalVersion] = []
            size = 0
            for row in rows:
                after = _key(row)
                version = await read_version(self._database, after)
                if version is None:
                    continue
                batch.append(version)
                size += len(version.chunks)
                if size >= BATCH_CHUNKS:
                    await target.apply(Changes(replace=batch))
                    done, batch, size = done + size, [], 0
                    yield Progress(done, max(total, done))
            await target.apply(Changes(replace=batch))
            done += size
            yield Progress(done, max(total, done))

    async def rebuild(
        self, target: LexicalIndex, publish: Callable[[], None]
    ) -> AsyncIterator[Progress]:
        """Fills `target` beside the index in use, then puts it in its place.

        What the outbox changed meanwhile is applied to `target` at the end; the
        switch happens in the same turn, so no change falls between the two.

        Args:
            target: An empty index.
            publish: Makes `target` the one that the next start opens.
        """
        self._touched, self._purged = set(), set()
        try:
            last = Progress(0, 0)
            async for last in self.fill(target):
                yield last
            async with self._turn:
                await self._catch_up(target)
                publish()
                self._index, former = target, self._index
            await former.close()
            yield Progress(last.done, last.total, switched=True)
        finally:
            self._touched = None

    async def _catch_up(self, target: LexicalIndex) -> None:
        touched, purged = self._touched or set(), self._purged
        if purged:
            await target.apply(Changes(purge=sorted(purged)))
        replace: list[LexicalVersion] = []
        delete: list[VersionKey] = []
        for key in touched:
            version = await read_version(self._database, key)
            if version is None:
                delete.append(key)
            else:
                replace.append(version)
        if replace or delete:
            await target.apply(Changes(replace=replace, delete=delete))


def _key(row: Any) -> VersionKey:
    return VersionKey(row["project_id"], row["document_id"], row["version"])
