"""Puts small deltas together: at most about twenty flushes a second reach filter and reader.

A flush costs the mesh about a millisecond of processor (filter, generation, gateway: a gRPC
message or two in each), whatever its length. So the more answers are written at the same
time, the longer each waits between two flushes; its first text never waits.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

FLUSH_SECONDS = 0.05
LONGEST_SECONDS = 0.25
"""Slower than this a reader sees the text jump."""
FLUSHES_PER_SECOND = 1000
"""Of all streams of this process together, until every one waits for the longest time."""


class Rhythm:
    """How long a stream waits between flushes.

    Args:
        shortest: Seconds when there are few streams.
        longest: Seconds when there are many.
        per_second: Flushes that all streams together may make.
    """

    def __init__(
        self,
        shortest: float = FLUSH_SECONDS,
        longest: float = LONGEST_SECONDS,
        per_second: float = FLUSHES_PER_SECOND,
    ) -> None:
        self._shortest = shortest
        self._longest = longest
        self._per_second = per_second
        self._streams = 0

    @property
    def interval(self) -> float:
        """Seconds from a flush to the next one, now."""
        return min(self._longest, max(self._shortest, self._streams / self._per_second))

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Counts a stream while it lasts."""
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1


PROCESS = Rhythm()
"""Of the streams of this process."""


async def coalesced(
    deltas: AsyncGenerator[str, None], *, rhythm: Rhythm = PROCESS
) -> AsyncGenerator[str, None]:
    """The same text in fewer pieces.

    The first piece leaves at once, what comes later when the rhythm's interval has passed since
    the last one left. Meanwhile nothing is read: what arrives gathers in the socket, and one read
    takes all of it. What came before an end or an error leaves before that is told.
    """
    upcoming = asyncio.ensure_future(anext(deltas))
    first = True
    try:
        with rhythm.stream():
            while True:
                try:
                    pieces = [await upcoming]
                except StopAsyncIteration:
                    return
                upcoming = asyncio.ensure_future(anext(deltas))
                while not first:
                    # One turn of the event loop: what is there already comes in it.
                    await asyncio.sleep(0)
                    if not _has_text(upcoming):
                        break
                    pieces.append(upcoming.result())
                    upcoming = asyncio.ensure_future(anext(deltas))
                yield "".join(pieces)
                first = False
                if not upcoming.done() or _has_text(upcoming):
                    await asyncio.sleep(rhythm.interval)
    finally:
        upcoming.cancel()
        await asyncio.gather(upcoming, return_exceptions=True)
        await deltas.aclose()


def _has_text(piece: asyncio.Future[str]) -> bool:
    return piece.done() and not piece.cancelled() and piece.exception() is None
