"""Threads that run a model, so that the event loop never waits for arithmetic.

Work is given in small steps (a text, a pair). A call has only a few steps under
way at any time, so calls take turns: a question does not wait for the 256 texts
of another call. Cancelling the caller leaves at most the steps already running.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class ModelThreads:
    """A fixed number of threads for steps of a model.

    Args:
        workers: Steps that run at once; more than there are cores gains nothing.
        name: Shown as the threads' name.
    """

    def __init__(self, workers: int, name: str) -> None:
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=name)

    async def run(self, step: Callable[[], R]) -> R:
        """Runs one step; cancelled before it began it never runs."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, step)

    async def each(
        self, step: Callable[[T], R], items: Sequence[T], *, until: float | None = None
    ) -> list[R | None]:
        """Runs a step for each item, started in their order.

        Args:
            step: Called in a thread.
            items: What it is called with.
            until: `time.monotonic()` at which to return with what there is by then.

        Returns:
            Results in the order of the items; None for those that had not ended
            at `until`. Without `until` there is no None of ours.
        """
        if len(items) == 1 and until is None:
            return [await self.run(partial(step, items[0]))]
        results: list[R | None] = [None] * len(items)
        waiting = iter(enumerate(items))

        async def take_turns() -> None:
            for index, item in waiting:
                results[index] = await self.run(partial(step, item))

        # One more than there are threads: a thread that ends finds its next step queued.
        turns = min(self._workers + 1, len(items))
        tasks = [asyncio.create_task(take_turns()) for _ in range(turns)]
        try:
            left = None if until is None else max(0.0, until - time.monotonic())
            done, _ = await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
            return list(results)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """Drops steps not begun and waits for those that run."""
        self._pool.shutdown(wait=True, cancel_futures=True)
