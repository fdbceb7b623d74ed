"""Removing what is no longer live, in small batches that never block a search for long."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from meshkit.database.pool import Database
from meshkit.errors import Unavailable
from meshkit.logging import logger

log = logger(__name__)


async def collect(database: Database, batch: int) -> int:
    """Deletes up to `batch` chunks of retired versions, and versions without any left.

    Returns how many chunks and versions; 0 when nothing waits.
    """
    async with database.connection() as connection:
        done: int = await connection.fetchval("SELECT retrieval.collect_garbage($1)", batch)
    return done


async def run(
    database: Database,
    wake: asyncio.Event,
    *,
    batch: int,
    every_seconds: float,
    remember_requests: timedelta,
) -> None:
    """Collects for ever: when woken, and every `every_seconds` besides."""
    while True:
        try:
            while await collect(database, batch):
                continue
            async with database.connection() as connection:
                await connection.execute("SELECT retrieval.forget_requests($1)", remember_requests)
        except Unavailable as error:
            log.warning("garbage waits", reason=error.reason)
        try:
            async with asyncio.timeout(every_seconds):
                await wake.wait()
        except TimeoutError:
            continue
        wake.clear()
