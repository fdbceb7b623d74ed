"""Where the time of an answer goes, and what is left of it."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry.trace import SpanKind

from meshkit import deadline
from meshkit.telemetry import tracing
from services.generation.answers import Step

FIRST_TOKEN: Final = "first_token"  # noqa: S105 - a moment
TOTAL: Final = "total"


class Stopwatch:
    """Milliseconds per stage, and shares of the time that is left."""

    def __init__(self, seconds: float) -> None:
        """`seconds` is what the answer may take when the caller set no nearer deadline."""
        self._started = time.perf_counter()
        left = deadline.remaining()
        self._seconds = seconds if left is None else min(seconds, left)
        self.timings_ms: dict[str, float] = {}
        """How long each stage took; of a moment that was marked, when it was."""
        self.started_ms: dict[str, float] = {}
        """When each stage began, from the beginning of the answer."""

    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._seconds - (time.perf_counter() - self._started))

    def share(self, share: float, most: float) -> float:
        """A share of what is left, at most `most` seconds and never nothing."""
        return max(0.001, min(most, share * self.left()))

    def mark(self, moment: str) -> None:
        """Notes the time from the beginning until now, the first time it is called."""
        if moment not in self.timings_ms:
            self.timings_ms[moment] = _milliseconds(time.perf_counter() - self._started)
            tracing.event(moment)

    def inside(self, stage: str, steps: Iterable[Step]) -> None:
        """Notes what another service did during a stage."""
        for step in steps:
            name = f"{stage}.{step.name}"
            self.timings_ms[name] = round(step.milliseconds, 3)
            self.started_ms[name] = _milliseconds(step.began - self._started)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Notes the time of the block, also when it fails."""
        began = time.perf_counter()
        failed: BaseException | None = None
        try:
            yield
        except BaseException as error:
            failed = error
            raise
        finally:
            seconds = time.perf_counter() - began
            self.timings_ms[name] = _milliseconds(seconds)
            self.started_ms[name] = _milliseconds(began - self._started)
            # Made afterwards: a block that yields to its reader must not leave its span current.
            tracing.elapsed(f"answer.{name}", seconds, {}, kind=SpanKind.INTERNAL, error=failed)


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
