"""Retrieval metrics as trec_eval computes them; pure functions over ranked ids.

`ranked` are ids best first, each at most once; `relevance` gives the gain of the relevant ones
(0 or absent: not relevant).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def ndcg(ranked: Sequence[str], relevance: Mapping[str, int], k: int) -> float:
    """Normalised discounted cumulative gain at `k`, linear gain (Järvelin and Kekäläinen 2002)."""
    gains = [max(relevance.get(name, 0), 0) for name in ranked[:k]]
    ideal = sorted((gain for gain in relevance.values() if gain > 0), reverse=True)[:k]
    best = _discounted(ideal)
    return _discounted(gains) / best if best else 0.0


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def recall(ranked: Sequence[str], relevance: Mapping[str, int], k: int) -> float:
    """Share of the relevant ids among the first `k`."""
    relevant = {name for name, gain in relevance.items() if gain > 0}
    return len(relevant.intersection(ranked[:k])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranked: Sequence[str], relevance: Mapping[str, int]) -> float:
    """One over the rank of the first relevant id; 0 when there is none."""
    for rank, name in enumerate(ranked, 1):
        if relevance.get(name, 0) > 0:
            return 1 / rank
    return 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie, linearly interpolated."""
    if not values:
        return math.nan
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
