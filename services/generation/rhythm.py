"""How often an answer's text goes on its way: at most about twenty times a second.

A piece of text costs the mesh about a millisecond of processor on its way (filter, generation,
gateway: a gRPC message or two in each), whatever its length. So the more answers are written at
the same time, the longer each waits between two pieces; its first text never waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

SHORTEST_SECONDS = 0.05
LONGEST_SECONDS = 1.0
"""Reached at 250 streams of a process; text then comes by lines, still faster than it is read."""
PIECES_PER_SECOND = 250.0
"""Of all streams of this process together, until every one waits for the longest time."""


class Rhythm:
    """How long a stream waits between pieces.

    Args:
        shortest: Seconds when there are few streams.
        longest: Seconds when there are many.
        per_second: Pieces that all streams together may make.
    """

    def __init__(
        self,
        shortest: float = SHORTEST_SECONDS,
        longest: float = LONGEST_SECONDS,
        per_second: float = PIECES_PER_SECOND,
    ) -> None:
        self._shortest = shortest
        self._longest = max(shortest, longest)
        self._per_second = per_second
        self._streams = 0

    @property
    def interval(self) -> float:
        """Seconds from a piece to the next one, now."""
        return min(self._longest, max(self._shortest, self._streams / self._per_second))

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Counts a stream while it lasts."""
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    async def pause(self, since: float) -> None:
        """Waits until the next piece is due.

        Args:
            since: The event loop's time when the last one left.
        """
        await asyncio.sleep(since + self.interval - asyncio.get_running_loop().time())
