"""Making one ranking out of several: reciprocal rank fusion and min-max combination.

Pure functions over ranked lists of keys. Reciprocal rank fusion is the method of
Cormack, Clarke and Buettcher (SIGIR 2009) with their k = 60: the sum of
`weight / (k + rank)` over the lists that hold an item, ranks counted from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

RRF_K = 60


class Fusion(Enum):
    """How several rankings become one."""

    RRF = "rrf"
    MIN_MAX = "min_max"


@dataclass(frozen=True, slots=True)
class RankedList:
    """One index's answer, best first."""

    keys: Sequence[int]
    """Distinct keys of the items."""
    scores: Sequence[float]
    """Score of each, descending; only min-max reads them."""
    weight: float = 1.0
    """How much the list counts, 0 or more; 0 is as if it were not there."""
    floor: float | None = None
    """Score of what does not match at all, if the index has one (0 for BM25): min-max
    scales from there (Bruch, Gai and Ingber 2023). None scales from the list's last."""


class Fused(NamedTuple):
    """An item of the fused ranking; a tuple, because a search makes hundreds."""

    key: int
    score: float


def fuse(lists: Sequence[RankedList], method: Fusion = Fusion.RRF) -> list[Fused]:
    """One ranking of everything in the lists, best first; ties go by key.

    The result does not depend on the order of the lists, and appearing in one
    more of them never lowers an item's score.
    """
    shares = [
        dict(zip(ranked.keys, _shares(ranked, method), strict=True))
        for ranked in lists
        if ranked.weight > 0
    ]
    if len(shares) > 2:
        keys = {key for of_list in shares for key in of_list}
        # Sorted before they are added: floating-point sums of three depend on the order.
        total = {
            key: sum(sorted(of_list[key] for of_list in shares if key in of_list)) for key in keys
        }
    else:
        total = shares[0] if shares else {}
        for of_list in shares[1:]:
            for key, share in of_list.items():
                total[key] = total.get(key, 0.0) + share
    ranking = sorted((-score, key) for key, score in total.items())
    return [Fused(key, -score) for score, key in ranking]


def fuse_to_depth(lists: Sequence[RankedList], method: Fusion, depth: int) -> list[Fused]:
    """`fuse`, with the first hits the same however long the lists are.

    The first `depth` of each list are fused. What stands below in one of them comes
    behind all of those, so whoever asks for more hits sees more, not others.
    """
    if all(len(ranked.keys) <= depth for ranked in lists):
        return fuse(lists, method)
    head = fuse(
        [replace(one, keys=one.keys[:depth], scores=one.scores[:depth]) for one in lists], method
    )
    first = {item.key for item in head}
    lowest = head[-1].score if head else 0.0
    below = [item for item in fuse(lists, method) if item.key not in first]
    return head + [Fused(item.key, min(item.score, lowest)) for item in below]


def _shares(ranked: RankedList, method: Fusion) -> list[float]:
    return _reciprocal(ranked) if method is Fusion.RRF else _min_max(ranked)


def _reciprocal(ranked: RankedList) -> list[float]:
    return [ranked.weight / (RRF_K + rank) for rank in range(1, len(ranked.keys) + 1)]


def _min_max(ranked: RankedList) -> list[float]:
    """Scores scaled to 0..1 from the floor or the last to the first; equals count fully."""
    if not ranked.scores:
        return []
    low, high = min(ranked.scores), max(ranked.scores)
    low = low if ranked.floor is None else min(low, ranked.floor)
    if high <= low:
        return [ranked.weight] * len(ranked.scores)
    return [ranked.weight * ((score - low) / (high - low)) for score in ranked.scores]
