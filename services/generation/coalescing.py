"""Puts small deltas together: at most about twenty flushes a second reach filter and reader."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable

FLUSH_SECONDS = 0.05


async def coalesced(
    deltas: AsyncGenerator[str, None],
    *,
    interval: float = FLUSH_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[str, None]:
    """The same text in fewer pieces.

    The first piece leaves at once, a later one as soon as `interval` seconds have passed since the
    last; what waits when the deltas end or pause leaves then.
    """
    waiting: list[str] = []
    last = float("-inf")
    upcoming: asyncio.Future[str] | None = None
    try:
        while True:
            if upcoming is None:
                upcoming = asyncio.ensure_future(anext(deltas))
            left = max(0.0, last + interval - clock()) if waiting else None
            done, _ = await asyncio.wait({upcoming}, timeout=left)
            if done:
                try:
                    waiting.append(upcoming.result())
                except StopAsyncIteration:
                    upcoming = None
                    break
                upcoming = None
                if clock() - last < interval:
                    continue
            if waiting:
                yield "".join(waiting)
                waiting.clear()
                last = clock()
        if waiting:
            yield "".join(waiting)
    finally:
        if upcoming is not None:
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)
        await deltas.aclose()
