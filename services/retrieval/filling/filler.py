"""Embeds what spaces lack, batch by batch, for as long as this process has the lease.

Nothing is remembered between two batches but what Postgres holds: a process that is
killed loses the calls it had under way, and whoever takes over goes on behind the last
batch that was written. Calls that are under way when filling is paused, or when the
process stops, are paid for: they come to their end and are kept.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from meshkit.errors import (
    BudgetExhausted,
    Cancelled,
    DeadlineExceeded,
    Internal,
    LimitExceeded,
    MeshError,
    NotFound,
    Precondition,
    Unavailable,
)
from meshkit.logging import logger
from meshkit.telemetry import metrics
from services.retrieval.filling.batches import Lacking, batches, largest_call
from services.retrieval.filling.registry import KnownSpace, SpaceService
from services.retrieval.filling.work import Due, Lease, LeaseLost, SpaceWork, Versions
from services.retrieval.passages import Vectors
from services.retrieval.spaces import check_vectors, check_version

log = logger(__name__)

VERSIONS_AT_ONCE = 256
"""Versions looked at together: many short documents fill a call."""
PAID_SECONDS = 4.0
"""How long calls under way may take to their end when the process stops."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
"""Between attempts while the provider, or Postgres, is away."""
REST = timedelta(seconds=30)
"""First rest of a version whose own text is the trouble, or whose project has no money."""
NAMED = 5
"""Documents that a line of the log names."""
PASSING = (Unavailable, DeadlineExceeded, LimitExceeded, Cancelled, NotFound)
"""What ends without anybody touching the document. NotFound: a lane that is not yet configured."""

_filled = metrics.counter("citemesh.retrieval.space.filled")


@dataclass(frozen=True, slots=True)
class FillingPolicy:
    """How spaces are filled."""

    batch: int
    """Chunks a call carries at most."""
    parallel: int
    """Calls of one space at the same time."""
    lease_seconds: float
    poll_seconds: float
    """How often it is looked for work when nobody wakes the filler."""


class _Troubled(Exception):
    """A version's own text, or its project's budget, is what failed."""

    def __init__(self, error: MeshError) -> None:
        super().__init__(error.reason)
        self.error = error


class Filler:
    """Fills every space that lacks something and that nobody else is filling.

    Args:
        work: What spaces lack.
        service: Who embeds.
        policy: How.
    """

    def __init__(self, work: SpaceWork, service: SpaceService, policy: FillingPolicy) -> None:
        self._work = work
        self._service = service
        self._policy = policy
        self._running: dict[int, tuple[asyncio.Task[None], asyncio.Event]] = {}
        """By space's number: the task that fills it, and what tells it to begin no new call."""

    async def run(self, wake: asyncio.Event) -> None:
        """Fills for ever: when woken, and every `poll_seconds` besides."""
        try:
            while True:
                wake.clear()
                try:
                    for due in await self._work.due():
                        self._begin(due, wake)
                except Unavailable as error:
                    log.warning("spaces wait", reason=error.reason)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._policy.poll_seconds):
                        await wake.wait()
        finally:
            for _, stop in self._running.values():
                stop.set()
            tasks = [task for task, _ in self._running.values()]
            if tasks:
                await asyncio.wait(tasks, timeout=PAID_SECONDS)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, due: Due, wake: asyncio.Event) -> None:
        if due.number in self._running:
            return
        stop = asyncio.Event()
        task = asyncio.create_task(self._fill(due, stop), name=f"fill {due.space}")
        self._running[due.number] = task, stop

        def ended(_: asyncio.Task[None]) -> None:
            del self._running[due.number]
            if stop.is_set():
                # Resumed, perhaps, while the last calls came to their end.
                wake.set()

        task.add_done_callback(ended)

    async def _fill(self, due: Due, stop: asyncio.Event) -> None:
        """One lease, from its claim until there is nothing to do, a pause, or its loss."""
        try:
            lease = await self._work.claim(due)
        except Unavailable:
            return
        if lease is None:
            return
        keeping = asyncio.create_task(self._keep(lease, stop))
        filling = asyncio.create_task(self._drain(lease, stop))
        log.info("filling a space", space=lease.space)
        try:
            await asyncio.wait({keeping, filling}, return_when=asyncio.FIRST_COMPLETED)
            for task in (filling, keeping):
                if task.done():
                    task.result()
        except LeaseLost:
            log.warning("a space is filled by another process", space=lease.space)
        except (MeshError, asyncpg.PostgresError) as error:
            log.exception("filling a space failed", space=lease.space, kind=type(error).__name__)
        finally:
            for task in (filling, keeping):
                task.cancel()
            await asyncio.gather(filling, keeping, return_exceptions=True)
            with suppress(MeshError):
                await asyncio.shield(self._work.release(lease))

    async def _keep(self, lease: Lease, stop: asyncio.Event) -> None:
        """Extends the lease until cancelled; sets `stop` when no new call is to begin.

        Raises:
            LeaseLost: it is another's, or could not be extended in time.
        """
        loop = asyncio.get_running_loop()
        held_until = loop.time() + self._policy.lease_seconds
        while True:
            await asyncio.sleep(min(1.0, self._policy.lease_seconds / 4))
            asked = loop.time()
            try:
                if not await self._work.extend(lease):
                    stop.set()
            except Unavailable:
                if loop.time() > held_until:
                    raise LeaseLost from None
            else:
                held_until = asked + self._policy.lease_seconds

    async def _drain(self, lease: Lease, stop: asyncio.Event) -> None:
        """Fills until nothing is due or `stop` is set; waits while the provider is away."""
        pause = FIRST_PAUSE_SECONDS
        while not stop.is_set():
            try:
                space = await self._space(lease)
                waiting = await self._work.next(lease, VERSIONS_AT_ONCE)
                if not waiting:
                    return
                for versions in waiting:
                    await self._project(lease, space, versions, stop)
                await self._work.note(lease, "")
                pause = FIRST_PAUSE_SECONDS
            except PASSING as error:
                log.warning("filling waits", space=lease.space, reason=error.reason)
                with suppress(Unavailable):
                    await self._work.note(lease, error.reason)
                await _rest(stop, error.retry_after or pause * random.uniform(0.5, 1.0))  # noqa: S311
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _space(self, lease: Lease) -> KnownSpace:
        for space in await self._service.spaces():
            if space.name == lease.space and space.configured:
                return space
        raise NotFound("SPACE_UNKNOWN", f"Nobody embeds in {lease.space} here.")

    async def _project(
        self, lease: Lease, space: KnownSpace, versions: Versions, stop: asyncio.Event
    ) -> None:
        """Fills versions of one project as far as one look at them shows."""
        policy = self._policy
        while not stop.is_set():
            limit = 4 * policy.batch * policy.parallel
            chunks = await self._work.missing(lease, versions, limit)
            if len(chunks) < limit:
                # Those that lack nothing (any more) are done, with the rest behind.
                await self._work.settle(lease, versions)
            if not chunks:
                return
            try:
                await self._all(lease, space, versions.project_id, chunks, stop)
            except _Troubled as trouble:
                await self._isolate(lease, space, versions.project_id, chunks, trouble)
                return

    async def _all(
        self,
        lease: Lease,
        space: KnownSpace,
        project_id: str,
        chunks: list[Lacking],
        stop: asyncio.Event,
    ) -> None:
        """Embeds and writes chunks, several calls side by side.

        When one fails, those under way come to their end.
        """
        waiting = batches(
            chunks,
            texts=min(self._policy.batch, space.texts_per_call),
            tokens=largest_call(space.tokens_per_minute),
        )
        ending = asyncio.Event()

        async def lane() -> None:
            while not (ending.is_set() or stop.is_set()):
                batch = next(waiting, None)
                if batch is None:
                    return
                try:
                    await self._one(lease, space, project_id, batch)
                except BaseException:
                    ending.set()
                    raise

        lanes = [asyncio.create_task(lane()) for _ in range(self._policy.parallel)]
        try:
            await asyncio.wait(lanes)
        finally:
            for task in lanes:
                task.cancel()
            ends = await asyncio.gather(*lanes, return_exceptions=True)
        _raise_worst(ends)

    async def _one(
        self, lease: Lease, space: KnownSpace, project_id: str, batch: list[Lacking]
    ) -> None:
        """One call and its vectors' way into the table."""
        try:
            vectors = await self._embed(space, project_id, batch)
        except BudgetExhausted as error:
            raise _Troubled(error) from None
        except PASSING:
            raise
        except MeshError as error:
            raise _Troubled(error) from None
        await self._work.write(lease, project_id, batch, vectors)
        _filled.add(len(batch), {"space": space.name})

    async def _embed(self, space: KnownSpace, project_id: str, batch: list[Lacking]) -> Vectors:
        vectors, version = await self._service.embed(
            project_id, space, [chunk.text for chunk in batch]
        )
        check_version(space.name, filled_by=space.version, given=version)
        check_vectors(vectors, space.name)
        if len(vectors) != len(batch):
            raise Internal(
                "VECTOR_INVALID", f"{len(vectors)} vectors came back for {len(batch)} texts."
            )
        return vectors

    async def _isolate(
        self,
        lease: Lease,
        space: KnownSpace,
        project_id: str,
        chunks: list[Lacking],
        trouble: _Troubled,
    ) -> None:
        """Lets the versions rest whose text no call can take, and fills the others.

        Without money for the project all of them rest.
        """
        if isinstance(trouble.error, BudgetExhausted | Precondition):
            await self._postpone(lease, project_id, chunks, trouble.error)
            return
        by_version: dict[tuple[str, int], list[Lacking]] = {}
        for chunk in chunks:
            by_version.setdefault((chunk.document_id, chunk.version), []).append(chunk)
        for own in by_version.values():
            try:
                for chunk in own:
                    await self._one(lease, space, project_id, [chunk])
            except _Troubled as again:
                await self._postpone(lease, project_id, own, again.error)

    async def _postpone(
        self, lease: Lease, project_id: str, chunks: Iterable[Lacking], error: MeshError
    ) -> None:
        names = tuple(dict.fromkeys((chunk.document_id, chunk.version) for chunk in chunks))
        log.warning(
            "documents wait for their vectors",
            space=lease.space,
            project_id=project_id,
            documents=len(names),
            first=[document for document, _ in names[:NAMED]],
            reason=error.reason,
        )
        await self._work.postpone(lease, Versions(project_id, names), error.reason, REST)


async def _rest(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


def _raise_worst(ends: Iterable[BaseException | None]) -> None:
    """Raises what several lanes ended with: the loss of the lease before anything else."""
    errors = [end for end in ends if isinstance(end, BaseException)]
    for error in sorted(errors, key=lambda each: not isinstance(each, LeaseLost)):
        raise error
