"""What the stages of one search share: its clock, and what is missing from its answer."""

from __future__ import annotations

import time
from typing import Final

from meshkit import deadline
from meshkit.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    LimitExceeded,
    MeshError,
    Unavailable,
    Unprocessable,
)
from meshkit.logging import logger
from services.retrieval.upstream import ModelUsage

log = logger(__name__)

TOTAL: Final = "total"
"""The whole search, among the stages."""

SURVIVABLE = (Unavailable, DeadlineExceeded, LimitExceeded, Internal, Cancelled, Unprocessable)
"""What a search does without, also a provider that declines the content; other errors are the
caller's to know."""


class Run:
    """What one search learns on its way."""

    __slots__ = ("_began", "degraded", "started", "timings", "usage")

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.degraded: list[str] = []
        self.timings: dict[str, float] = {}
        """Milliseconds of each stage."""
        self.started: dict[str, float] = {}
        """Milliseconds from the beginning of the search to the beginning of each stage."""
        self.usage: list[ModelUsage] = []

    def took(self, stage: str, since: float) -> None:
        """Notes the milliseconds since `time.perf_counter()` was `since`."""
        self.timings[stage] = (time.perf_counter() - since) * 1000
        self.started[stage] = (since - self._began) * 1000

    def without(self, stage: str, error: MeshError) -> None:
        """Notes a stage that failed."""
        self.degraded.append(stage)
        log.warning("search without a stage", stage=stage, reason=error.reason)

    def spent(self, usage: ModelUsage | None) -> None:
        """Notes what a model consumed."""
        if usage is not None:
            self.usage.append(usage)


def share_of_deadline(longest: float, share: float) -> float:
    """Seconds a stage may take: its setting, within its share of what is left."""
    left = deadline.remaining()
    return longest if left is None else min(longest, left * share)
