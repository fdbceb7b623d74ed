"""How late the event loop is: what everything that a process does waits for."""

from __future__ import annotations

import asyncio

from meshkit.telemetry import metrics

EVERY_SECONDS = 0.5

_lag = metrics.histogram("citemesh.eventloop.lag")


async def watch() -> None:
    """Notes twice a second how much later than asked the loop woke up; runs until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + EVERY_SECONDS
        await asyncio.sleep(EVERY_SECONDS)
        _lag.record(max(0.0, loop.time() - due))
