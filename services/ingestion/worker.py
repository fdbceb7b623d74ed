"""Takes versions from the queue and sees each attempt to its end.

However an attempt ends, its version is in one of these states afterwards: ready;
failed with a reason; in the queue again; or in the hands of whoever took the
lease. A process that is killed leaves the last: its lease runs out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from meshkit.database.pool import UNREACHABLE, Database
from meshkit.errors import BudgetExhausted, Fenced, MeshError, Unavailable
from meshkit.logging import logger
from meshkit.telemetry import span
from meshkit.telemetry.tracing import link_to
from services.ingestion.attempt import Attempt, ChunksMissing, PlanChanged, Progress, Tools
from services.ingestion.changes import Changes
from services.ingestion.clamav import Infected
from services.ingestion.documents import Job
from services.ingestion.extraction.model import FileRefused
from services.ingestion.measures import attempts
from services.ingestion.queue import LeaseLost
from services.ingestion.retry import is_transient, patiently
from services.ingestion.versions import CHANNEL

log = logger(__name__)

_DATABASE_PAUSE_SECONDS = 1.0
_GIVE_BACK_SECONDS = 10.0
"""Patience for the last write of an attempt when the process stops; after that its lease runs
out by itself."""
SPARE = 1
"""Hands beside those of `at_once`, for projects of which nothing is worked on here: large
documents of one project may hold all others for minutes."""
_UNEXPECTED_DELAY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class WorkerPolicy:
    """How the worker goes about it."""

    at_once: int
    """Documents worked on at the same time."""
    lease_seconds: float
    poll_seconds: float
    retry_later_seconds: float
    """How long a document rests when another service stays away."""


class Worker:
    """Works until it is told to drain.

    Args:
        tools: What attempts share.
        changes: Told of every change.
        policy: How to go about it.
        draining: Set when the process is about to stop.
    """

    def __init__(
        self, tools: Tools, changes: Changes, policy: WorkerPolicy, draining: asyncio.Event
    ) -> None:
        self._tools = tools
        self._changes = changes
        self._policy = policy
        self._draining = draining
        self._wake = asyncio.Event()
        self._owing: set[str] = set()
        """Documents whose lease is to be extended or given back once Postgres can be told."""
        self._running: dict[asyncio.Task[None], str] = {}
        """Attempts under way and the project of each."""

    async def run(self) -> None:
        """Claims and works; returns when draining has given every lease back."""
        await self._succeed()
        watcher = asyncio.create_task(self._watch_draining())
        try:
            while not self._draining.is_set():
                self._wake.clear()
                if not await self._claim_one():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), self._policy.poll_seconds)
        finally:
            watcher.cancel()
            await self._stop()

    async def _succeed(self) -> None:
        """Takes up what a process that was killed here has left, without waiting for its leases."""
        while not self._draining.is_set():
            try:
                left = await self._tools.queue.expire_predecessor()
            except Unavailable:
                await asyncio.sleep(_DATABASE_PAUSE_SECONDS)
            else:
                if left:
                    log.warning("a process was killed here", documents=left)
                return

    async def listen(self, database: Database) -> None:
        """Wakes the worker at every NOTIFY; polling goes on when Postgres is away."""
        while True:
            with suppress(*UNREACHABLE, TimeoutError):
                async with database.direct() as connection:
                    lost = asyncio.Event()
                    connection.add_termination_listener(lambda *_, lost=lost: lost.set())
                    await connection.add_listener(CHANNEL, lambda *_: self._wake.set())
                    self._wake.set()
                    await lost.wait()
            await asyncio.sleep(_DATABASE_PAUSE_SECONDS)

    async def _stop(self) -> None:
        """Ends every attempt and waits until its lease is given back.

        The process cancels this worker too once its calls have ended, which may be
        sooner; that must not cost the last writes. Their own patience bounds them.
        """
        for task in self._running:
            task.cancel()
        ended = asyncio.gather(*self._running, return_exceptions=True)
        cancelled = False
        while not ended.done():
            try:
                await asyncio.shield(ended)
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError

    async def _watch_draining(self) -> None:
        await self._draining.wait()
        self._wake.set()

    async def _claim_one(self) -> bool:
        """Starts an attempt; False when there is nothing to do or no hand free."""
        if len(self._running) >= self._policy.at_once + SPARE:
            return False
        if self._owing:
            # They would be claimed, and their start counted, before Postgres is told.
            return False
        busy = len(self._running) >= self._policy.at_once
        try:
            job = await self._tools.queue.claim(
                without=list(self._running.values()) if busy else ()
            )
        except Unavailable:
            log.warning("the queue cannot be reached")
            return False
        if job is None:
            return False
        if self._draining.is_set():
            # A task cancelled before its first step would never give the lease back.
            mine = job
            await self._close(mine, lambda: self._tools.queue.give_back(mine), "given back")
            return False
        task = asyncio.create_task(self._work(job), name=f"ingest {job.document_id}")
        self._running[task] = job.project_id
        task.add_done_callback(self._finished)
        return True

    def _finished(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an attempt could not be closed", exc_info=error)

    async def _work(self, job: Job) -> None:
        """One attempt, with its lease kept, and what follows from its end."""
        links = link_to(job.trace_parent)
        attributes = {
            "citemesh.project_id": job.project_id,
            "citemesh.document_id": job.document_id,
            "citemesh.request_id": job.request_id,
        }
        with span("ingestion.process", attributes=attributes, links=links):
            log.info("document started", **_names(job))
            self._changes.notify(job.document_id)
            try:
                await self._attempt(job)
            except asyncio.CancelledError:
                attempts.add(1, {"outcome": "given_back"})
                await self._close(job, lambda: self._tools.queue.give_back(job), "given back")
                raise
            except Exception as error:  # noqa: BLE001 - every end has its consequence
                await self._conclude(job, error)
            else:
                attempts.add(1, {"outcome": "ready"})
                log.info("document ready", **_names(job))
            finally:
                self._owing.discard(job.document_id)
                self._changes.notify(job.document_id)

    async def _attempt(self, job: Job) -> None:
        """Runs the attempt; a lost lease stops it at once."""
        progress = Progress()
        work = asyncio.create_task(Attempt(job, self._tools, progress).run())
        keeper = asyncio.create_task(self._keep_lease(job, progress))
        try:
            await asyncio.wait({work, keeper}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                keeper.result()
            else:
                work.result()
        finally:
            for task in (work, keeper):
                task.cancel()
            await asyncio.gather(work, keeper, return_exceptions=True)

    async def _keep_lease(self, job: Job, progress: Progress) -> None:
        """Extends the lease and shows progress until cancelled.

        Raises:
            LeaseLost: when it is another's.
            Unavailable: when Postgres stayed away until it had run out.
        """
        loop = asyncio.get_running_loop()
        held_until = loop.time() + self._policy.lease_seconds
        while True:
            await asyncio.sleep(min(1.0, self._policy.lease_seconds / 4))
            asked = loop.time()
            try:
                await self._tools.queue.extend(job, progress.stage, progress.done, progress.total)
            except Unavailable:
                self._owing.add(job.document_id)
                if loop.time() > held_until:
                    raise
            else:
                self._owing.discard(job.document_id)
                held_until = asked + self._policy.lease_seconds
                self._changes.notify(job.document_id)

    async def _conclude(self, job: Job, error: Exception) -> None:
        """Gives the version the state that follows from how the attempt ended."""
        queue, later = self._tools.queue, self._policy.retry_later_seconds
        names = _names(job)
        if isinstance(error, LeaseLost | Fenced) or _removed(error):
            log.warning("document given up to another", **names)
        elif isinstance(error, FileRefused):
            await self._fail(job, error.reason, error.detail)
        elif isinstance(error, Infected):
            await self._quarantine(job, str(error))
        elif isinstance(error, PlanChanged) or _outlived(error):
            await self._close(job, lambda: queue.restart(job), "restarted as a new version")
        elif isinstance(error, ChunksMissing):
            log.error("retrieval has lost chunks", **names)

            async def again() -> None:
                await queue.forget_kept(job)
                await queue.give_back(job, counted=True)

            await self._close(job, again, "queued again")
        elif isinstance(error, BudgetExhausted):
            await self._fail(
                job, error.reason, f"{error.detail} Raise the budget and reprocess the document."
            )
        elif isinstance(error, MeshError) and is_transient(error):
            log.warning("another service stays away", reason=error.reason, **names)
            reason, detail = error.reason, error.detail
            # A Postgres that takes this down is back already.
            rest = _DATABASE_PAUSE_SECONDS if reason == "DATABASE_UNAVAILABLE" else later
            await self._close(job, lambda: queue.hold(job, reason, detail, rest), "held")
        elif isinstance(error, MeshError) and (error.http_status < 500 or _of_the_text(error)):
            await self._fail(job, error.reason, error.detail)
        else:
            log.error("attempt failed unexpectedly", exc_info=error, **names)
            await self._close(
                job,
                lambda: queue.give_back(job, seconds=_UNEXPECTED_DELAY_SECONDS, counted=True),
                "queued again",
            )

    async def _fail(self, job: Job, reason: str, detail: str) -> None:
        attempts.add(1, {"outcome": reason})
        log.info("document failed", reason=reason, **_names(job))
        await self._close(job, lambda: self._tools.queue.fail(job, reason, detail), "failed")

    async def _quarantine(self, job: Job, signature: str) -> None:
        """Ends the version, then removes its file; what that misses is swept later."""
        attempts.add(1, {"outcome": "quarantined"})
        log.warning("malware found", signature=signature, **_names(job))
        detail = (
            f"The malware scan found {signature}; the file was removed. If that is a mistake,"
            " have the scanner's signatures corrected and upload the file again."
        )
        queue, blobs = self._tools.queue, self._tools.blobs
        await self._close(
            job, lambda: queue.quarantine(job, "MALWARE_FOUND", detail), "quarantined"
        )
        try:
            await asyncio.shield(blobs.delete(job.blob_key))
        except Unavailable as error:
            log.warning("an infected file is left to housekeeping", reason=error.reason)

    async def _close(
        self, job: Job, write: Callable[[], Coroutine[Any, Any, None]], what: str
    ) -> None:
        """The last write of an attempt, repeated for as long as Postgres is away.

        An outage must not cost a document a start: until the process stops there is nothing
        better to do than to wait for Postgres.
        """
        self._owing.add(job.document_id)
        try:
            while True:
                try:
                    await asyncio.shield(patiently(write, _GIVE_BACK_SECONDS))
                except Unavailable:
                    if self._draining.is_set():
                        raise
                else:
                    break
        except LeaseLost:
            log.info("the document is another's already", **_names(job))
        except Unavailable:
            log.warning("lease left to run out", **_names(job))
        else:
            log.info("attempt closed", outcome=what, **_names(job))
        finally:
            self._owing.discard(job.document_id)


def _of_the_text(error: MeshError) -> bool:
    """Whether a model gave garbage for the text: it would again."""
    return error.reason == "VECTOR_INVALID"


def _outlived(error: Exception) -> bool:
    """Whether the space of the chunks was retired: they are embedded anew in the active one."""
    return isinstance(error, MeshError) and error.reason == "SPACE_RETIRED"


def _removed(error: Exception) -> bool:
    return isinstance(error, MeshError) and error.reason in ("DOCUMENT_REMOVED", "PROJECT_PURGED")


def _names(job: Job) -> dict[str, Any]:
    return {
        "project_id": job.project_id,
        "document_id": job.document_id,
        "version": job.version,
        "request_id": job.request_id,
    }
