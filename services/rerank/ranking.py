"""From scores to an order."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scored:
    """One passage that was read."""

    index: int
    """Its place in the request, from 0."""
    logit: float
    """The model's raw output, unbounded."""

    @property
    def score(self) -> float:
        """Probability that the passage answers the query, 0 to 1."""
        return sigmoid(self.logit)


def sigmoid(logit: float) -> float:
    """1 / (1 + e^-x), without overflow on either side."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    grown = math.exp(logit)
    return grown / (1.0 + grown)


def best_first(scored: Iterable[Scored], top_n: int = 0) -> list[Scored]:
    """By falling logit; ties keep the caller's order.

    By the logit and not the score: above about 37 every score is 1.0 exactly.

    Args:
        scored: In any order.
        top_n: How many to return; 0 means all.
    """
    ordered = sorted(scored, key=lambda each: (-each.logit, each.index))
    return ordered[:top_n] if top_n else ordered
