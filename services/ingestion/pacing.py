"""Keeping calls within the tokens a minute that a space's provider takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from services.ingestion.batches import Pace
from services.ingestion.chunking import Chunk


class Paces:
    """One pace a space, over all documents of this process.

    Args:
        replicas: Processes that share each provider's limit.
    """

    def __init__(self, replicas: int = 1) -> None:
        self._replicas = replicas
        self._paces: dict[str, Pace] = {}

    async def wait(self, space: str, tokens_per_minute: int, batch: Sequence[Chunk]) -> None:
        """Returns when the batch may be sent.

        Args:
            space: Name of the space.
            tokens_per_minute: Its limit, of all replicas together.
            batch: What is to be sent.
        """
        share = max(1, tokens_per_minute // self._replicas)
        pace = self._paces.get(space)
        if pace is None or pace.tokens_per_minute != share:
            pace = self._paces[space] = Pace(share)
        await asyncio.sleep(pace.take(sum(each.token_count for each in batch), time.monotonic()))
