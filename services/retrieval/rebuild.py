"""Rebuilding the lexical index while the old one answers; one rebuild at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from meshkit.errors import Internal
from meshkit.logging import logger
from services.retrieval.lexical.home import Home
from services.retrieval.lexical.tantivy_index import TantivyIndex
from services.retrieval.outbox import LexicalProjection, Progress

log = logger(__name__)


class _Rebuild:
    """One rebuild, and what its watchers see."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.progress = Progress(0, 0)
        self.ended = False
        self.failed = False
        self.changed = asyncio.Condition()
        self.task: asyncio.Task[None] | None = None

    async def show(self, progress: Progress | None = None, *, failed: bool = False) -> None:
        """Tells watchers about progress; without any, that it has ended."""
        async with self.changed:
            if progress is None:
                self.ended, self.failed = True, failed
            else:
                self.progress = progress
            self.changed.notify_all()


class Rebuilds:
    """Starts a rebuild, or joins the one under way.

    A rebuild goes on when the caller that started it leaves.
    """

    def __init__(self, home: Home, projection: LexicalProjection) -> None:
        self._home = home
        self._projection = projection
        self._last: _Rebuild | None = None

    async def run(self, request_id: str) -> AsyncIterator[Progress]:
        """Progress up to the switch; the id of the last rebuild gets its result again.

        Raises:
            Internal: REBUILD_FAILED; the old index stays in use.
        """
        last = self._last
        if last is None or last.failed or (last.ended and last.request_id != request_id):
            last = self._last = _Rebuild(request_id)
            last.task = asyncio.create_task(self._rebuild(last), name="lexical rebuild")
        shown: Progress | None = None
        while True:
            async with last.changed:
                while not last.ended and last.progress == shown:
                    await last.changed.wait()
                fresh, ended = last.progress != shown, last.ended
                shown = last.progress
            if last.failed:
                raise Internal(
                    "REBUILD_FAILED", "The lexical index was not rebuilt; the old one is in use."
                )
            if fresh:
                yield shown
            if ended:
                return

    async def close(self) -> None:
        """Stops a rebuild under way; the old index stays in use."""
        if self._last is not None and self._last.task is not None:
            self._last.task.cancel()
            await asyncio.gather(self._last.task, return_exceptions=True)

    async def _rebuild(self, rebuild: _Rebuild) -> None:
        directory, publish = self._home.fresh()
        target: TantivyIndex | None = None
        try:
            target = TantivyIndex(directory)
            async for progress in self._projection.rebuild(target, publish):
                await rebuild.show(progress)
        except BaseException as error:
            if target is not None and self._projection.index is not target:
                await target.close()
            await rebuild.show(failed=True)
            if not isinstance(error, Exception):
                raise
            log.exception("lexical rebuild failed")
        else:
            await rebuild.show()
        finally:
            self._home.sweep()
