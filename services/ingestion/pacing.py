"""Keeping calls within the tokens a minute that a space's provider takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from meshkit.resilience.rate import BURST_SHARE, Bucket
from services.ingestion.batches import SpaceLimits
from services.ingestion.chunking import Chunk


class Paces:
    """One pace a space, over all documents of this process.

    Args:
        replicas: Processes that share each provider's limit.
    """

    def __init__(self, replicas: int = 1) -> None:
        self._replicas = replicas
        self._buckets: dict[tuple[str, float], Bucket] = {}
        self._turn = asyncio.Lock()
        """First come, first served: a small batch must not pass a large one for ever."""

    def largest_call(self, limits: SpaceLimits) -> int:
        """Tokens that one call should carry at most; 0 for any number."""
        return int(self._share(limits) * BURST_SHARE)

    async def wait(self, limits: SpaceLimits, batch: Sequence[Chunk]) -> None:
        """Returns when the batch may be sent."""
        share = self._share(limits)
        if not share:
            return
        tokens = sum(each.token_count for each in batch)
        async with self._turn:
            key = limits.name, share
            bucket = self._buckets.setdefault(key, Bucket(share, time.monotonic()))
            await asyncio.sleep(bucket.wait(tokens, time.monotonic()))
            bucket.take(tokens, time.monotonic())

    def _share(self, limits: SpaceLimits) -> float:
        return limits.tokens_per_minute / self._replicas
