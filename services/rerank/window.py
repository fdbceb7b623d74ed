"""The part of a passage that a cross-encoder should read.

Its cost grows with the tokens it reads, so of a long passage it gets one window:
the one that shares most with the query.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def best_window(passage: Sequence[int], query: Sequence[int], size: int) -> slice:
    """The window of at most `size` tokens that shares most with the query.

    A query token counts once a window, by the inverse of how often the passage has
    it: what is everywhere ("the") says nothing about where to look, so no list of
    stop words, and no language, is needed. Windows overlap by three quarters; of
    equals the earliest wins, because texts open with what they are about.

    Args:
        passage: Token ids.
        query: Token ids.
        size: Most tokens of a window, at least 1.

    Returns:
        A slice of the passage; all of it when it is short enough.
    """
    if len(passage) <= size:
        return slice(0, len(passage))
    terms = set(query)
    counts = Counter(token for token in passage if token in terms)
    best, best_score = 0, 0.0
    for start in starts(len(passage), size):
        shared = counts.keys() & set(passage[start : start + size])
        # Sorted: a sum of floats depends on its order, and a set has none.
        score = sum(sorted(1.0 / counts[token] for token in shared))
        if score > best_score + 1e-9:
            best, best_score = start, score
    return slice(best, best + size)


def starts(length: int, size: int) -> list[int]:
    """Where windows of a text of more than `size` tokens begin; the last one ends with it."""
    step = max(1, size // 4)
    last = length - size
    return [*range(0, last, step), last]
