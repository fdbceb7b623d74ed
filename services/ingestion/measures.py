"""What operators see of the queue in their metrics."""

from __future__ import annotations

import asyncio

from meshkit.errors import Unavailable
from meshkit.telemetry import meter
from services.ingestion.queue import Queue

_EVERY_SECONDS = 15.0

_waiting = meter.create_gauge(
    "citemesh.ingestion.versions",
    unit="{version}",
    description="Versions in the queue, by state; the same from every replica.",
)
_oldest = meter.create_gauge(
    "citemesh.ingestion.oldest",
    unit="s",
    description="Time since the oldest unfinished version was queued; the same from every replica.",
)
attempts = meter.create_counter(
    "citemesh.ingestion.attempts",
    unit="{attempt}",
    description="Attempts that ended, by outcome: `ready`, the reason of a failure, `given_back`.",
)


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
