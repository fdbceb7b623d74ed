"""Medians with intervals."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES = 400


@dataclass(frozen=True, slots=True)
class Summary:
    """Of repeated measurements in milliseconds."""

    p50: float
    p95: float
    low: float
    """2.5 % point of the median's bootstrap distribution."""
    high: float
    """97.5 % point of it."""
    count: int

    def __str__(self) -> str:
        return f"{self.p50:8.2f}  [{self.low:.2f}, {self.high:.2f}]  p95 {self.p95:8.2f}"


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, by nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(values: Sequence[float], seed: int = 7) -> Summary:
    """Median, 95th percentile and a bootstrap interval of the median.

    Raises:
        ValueError: when there is no value.
    """
    if not values:
        raise ValueError("nothing was measured")
    chance = random.Random(seed)
    medians = [statistics.median(chance.choices(values, k=len(values))) for _ in range(RESAMPLES)]
    return Summary(
        p50=statistics.median(values),
        p95=percentile(values, 0.95),
        low=percentile(medians, 0.025),
        high=percentile(medians, 0.975),
        count=len(values),
    )
