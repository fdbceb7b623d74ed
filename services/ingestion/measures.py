"""What operators see of the queue in their metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from meshkit.errors import Unavailable
from meshkit.telemetry import metrics, span
from services.ingestion.queue import Queue

_EVERY_SECONDS = 15.0

_waiting = metrics.gauge("citemesh.ingestion.versions")
_oldest = metrics.gauge("citemesh.ingestion.oldest")
attempts = metrics.counter("citemesh.ingestion.attempts")
_until_ready = metrics.histogram("citemesh.ingestion.until_ready")


@contextmanager
def stage(name: str, **attributes: int) -> Iterator[None]:
    """A span and a duration around a stage of an attempt, also when it fails."""
    began = time.perf_counter()
    named = {f"citemesh.{key}": value for key, value in attributes.items()}
    try:
        with span(f"ingestion.{name}", named):
            yield
    finally:
        metrics.stage_took("ingest", name, time.perf_counter() - began)


def became_ready(seconds: float) -> None:
    """Notes the time from the upload of a version until it could be found."""
    _until_ready.record(seconds)


async def watch_backlog(queue: Queue) -> None:
    """Records the backlog every few seconds; a Postgres that is away leaves a gap."""
    while True:
        try:
            backlog = await queue.backlog()
        except Unavailable:
            pass
        else:
            _waiting.set(backlog.queued, {"state": "queued"})
            _waiting.set(backlog.processing, {"state": "processing"})
            _oldest.set(backlog.oldest_seconds)
        await asyncio.sleep(_EVERY_SECONDS)
