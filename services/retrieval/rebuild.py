"""Rebuilding the lexical index while the old one answers; one rebuild at a time in the mesh.

The state of a rebuild is a row in Postgres, so that any process can start, join and
watch it, and that one of a process that died is taken over. A new index is filled
beside the old one. What changes meanwhile is applied to the old one as ever and
noted in the journal, which is applied to the new one at the end; the rest of it and
the switch happen while nobody may claim an entry, so that no change falls between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

from meshkit.database.pool import Connection, Database
from meshkit.errors import Internal, MeshError, Unavailable
from meshkit.ids import new_request_id
from meshkit.logging import logger
from services.retrieval.lexical import Draft, LexicalHome, VersionKey
from services.retrieval.outbox import (
    BATCH_ENTRIES,
    Entry,
    IndexFailed,
    LexicalProjection,
    Progress,
    apply,
    fill,
)

log = logger(__name__)

STALE = timedelta(seconds=120)
"""A rebuild that was not heard of for so long is nobody's any more."""
LOOK_SECONDS = 0.1
"""How often watchers look at the row."""


class _Lost(Exception):
    """Another process has taken the rebuild over."""


async def _tell_nobody(_: bool, /) -> None:
    return


class Rebuilds:
    """Starts a rebuild, or joins the one under way.

    A rebuild goes on when the caller that started it leaves.
    """

    def __init__(
        self, home: LexicalHome, database: Database, projection: LexicalProjection
    ) -> None:
        self._home = home
        self._database = database
        self._projection = projection
        self._tasks: set[asyncio.Task[None]] = set()
        self._endings: set[asyncio.Task[None]] = set()
        """What a rebuild leaves to do when it is over, also when it was stopped."""

    async def run(self, request_id: str) -> AsyncIterator[Progress]:
        """Progress up to the switch; the id of the last rebuild gets its result again.

        Raises:
            Internal: REBUILD_FAILED; the old index stays in use.
            Unavailable: DATABASE_UNAVAILABLE.
        """
        await self._begin(request_id)
        shown: Progress | None = None
        while True:
            row = await self._row()
            if row["state"] == "failed":
                raise Internal(
                    "REBUILD_FAILED", "The lexical index was not rebuilt; the old one is in use."
                )
            switched = row["state"] == "switched"
            progress = Progress(row["done"], row["total"], switched)
            if progress != shown:
                shown = progress
                yield progress
            if switched:
                return
            if row["stale"]:
                # Whoever did it has died: from the beginning, here.
                await self._begin(request_id)
            await asyncio.sleep(LOOK_SECONDS)

    async def keep(
        self, every_seconds: float, tell: Callable[[bool], Awaitable[None]] = _tell_nobody
    ) -> None:
        """Builds the index whenever there is none, and deletes what a crash left, for ever.

        Args:
            every_seconds: How often it is looked.
            tell: Told each time whether the index is there.
        """
        swept = False
        while True:
            try:
                if not await self._home.exists():
                    log.info("building the lexical index from Postgres")
                    async for _ in self.run(new_request_id()):
                        pass
                if not swept:
                    await self._sweep()
                    swept = True
                await self._home.tidy()
            except (Unavailable, Internal) as error:
                log.warning("lexical index is not there", reason=error.reason)
                await tell(False)
            else:
                await tell(True)
            await asyncio.sleep(every_seconds)

    async def close(self) -> None:
        """Stops a rebuild under way here; the old index stays in use."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*self._endings, return_exceptions=True)

    async def _begin(self, request_id: str) -> None:
        async with self._database.connection() as connection:
            token = await connection.fetchval(
                "SELECT retrieval.rebuild_begin($1, $2)", request_id, STALE
            )
        if token is not None:
            task = asyncio.create_task(self._rebuild(token), name="lexical rebuild")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _row(self) -> Any:
        async with self._database.connection() as connection:
            return await connection.fetchrow(
                "SELECT state, draft, done, total, beat_at < now() - $1::interval AS stale "
                "FROM retrieval.lexical_rebuild",
                STALE,
            )

    async def _rebuild(self, token: object) -> None:
        draft: Draft | None = None
        switched = False
        try:
            draft = await self._home.fresh()
            await self._beat(token, draft=draft.name)
            async for progress in fill(self._database, draft.index):
                await self._beat(token, progress=progress)
            while await self._catch_up(draft):
                await self._beat(token)
            await self._switch(token, draft)
            switched = True
        except _Lost:
            log.warning("lexical rebuild was taken over by another process")
        except (MeshError, IndexFailed, OSError, ValueError) as error:
            log.exception("lexical rebuild failed", kind=type(error).__name__)
        finally:
            if draft is not None and not switched:
                await draft.index.close()
            ending = asyncio.create_task(self._end(token, switched=switched))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
            await asyncio.shield(ending)

    async def _switch(self, token: object, draft: Draft) -> None:
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute("SELECT retrieval.hold_claims()")
            while await self._replay(connection, draft):
                continue
            await self._beat(token)
            index = await self._home.publish(draft)
        await self._projection.use(index)

    async def _catch_up(self, draft: Draft) -> int:
        async with self._database.connection() as connection, connection.transaction():
            return await self._replay(connection, draft)

    async def _replay(self, connection: Connection, draft: Draft) -> int:
        """Applies a batch of the journal to the new index; returns how many entries."""
        rows = await connection.fetch("SELECT * FROM retrieval.journal_entries($1)", BATCH_ENTRIES)
        entries = [
            Entry(row["seq"], VersionKey(row["project_id"], row["document_id"], row["version"]))
            for row in rows
        ]
        if not entries:
            return 0
        done = await apply(connection, draft.index, entries)
        await connection.execute("SELECT retrieval.journal_done($1)", [entry.seq for entry in done])
        return len(done)

    async def _beat(
        self, token: object, *, draft: str | None = None, progress: Progress | None = None
    ) -> None:
        """Tells watchers, and everyone that the rebuild is still somebody's.

        Raises:
            _Lost: when it is not ours any more.
        """
        async with self._database.connection() as connection:
            ours = await connection.fetchval(
                "UPDATE retrieval.lexical_rebuild SET beat_at = now(), "
                "draft = coalesce($2, draft), done = coalesce($3, done), "
                "total = coalesce($4, total) WHERE token = $1 AND state = 'running' RETURNING true",
                token,
                draft,
                progress.done if progress else None,
                progress.total if progress else None,
            )
        if not ours:
            raise _Lost

    async def _end(self, token: object, *, switched: bool) -> None:
        """Says how it ended; a database that is away learns it by our silence."""
        try:
            async with self._database.connection() as connection:
                await connection.execute(
                    "UPDATE retrieval.lexical_rebuild SET state = $2 WHERE token = $1",
                    token,
                    "switched" if switched else "failed",
                )
            await self._sweep()
        except Unavailable as error:
            log.warning("the end of a lexical rebuild was not noted", reason=error.reason)

    async def _sweep(self) -> None:
        """Deletes the indexes that nobody uses or builds."""
        row = await self._row()
        building = row is not None and row["state"] == "running" and not row["stale"]
        if building and not row["draft"]:
            # Its index has just been made, under a name that is not told yet.
            return
        await self._home.sweep(row["draft"] if building else "")
