"""Which chunks are embedded in one call. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from meshkit.resilience.rate import BURST_SHARE


@dataclass(frozen=True, slots=True)
class Lacking:
    """A chunk that has no vector in a space."""

    key: int
    document_id: str
    version: int
    text: str
    tokens: int


def largest_call(tokens_per_minute: int) -> int:
    """Tokens that one call should carry at most; 0 for any number.

    What a provider grants at once is a part of its minute, shared with others.
    """
    return int(tokens_per_minute * BURST_SHARE)


def batches(chunks: Sequence[Lacking], *, texts: int, tokens: int) -> Iterator[list[Lacking]]:
    """The chunks in runs, each one call.

    Args:
        chunks: In any order, which is kept.
        texts: Chunks a call may carry.
        tokens: Tokens a call may carry; 0 for any number. A single larger chunk goes alone.
    """
    batch: list[Lacking] = []
    size = 0
    for each in chunks:
        if batch and (len(batch) >= texts or (tokens and size + each.tokens > tokens)):
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += each.tokens
    if batch:
        yield batch
