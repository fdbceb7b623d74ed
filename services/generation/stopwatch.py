"""Where the time of an answer goes, and what is left of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from meshkit import deadline


class Stopwatch:
    """Milliseconds per stage, and shares of the time that is left."""

    def __init__(self, seconds: float) -> None:
        """`seconds` is what the answer may take when the caller set no nearer deadline."""
        self._started = time.perf_counter()
        left = deadline.remaining()
        self._seconds = seconds if left is None else min(seconds, left)
        self.timings_ms: dict[str, float] = {}

    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._seconds - (time.perf_counter() - self._started))

    def share(self, share: float, most: float) -> float:
        """A share of what is left, at most `most` seconds and never nothing."""
        return max(0.001, min(most, share * self.left()))

    def mark(self, stage: str) -> None:
        """Notes the time from the beginning until now, the first time it is called."""
        self.timings_ms.setdefault(stage, round((time.perf_counter() - self._started) * 1000, 3))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Notes the time of the block, also when it fails."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.timings_ms[name] = round((time.perf_counter() - started) * 1000, 3)
