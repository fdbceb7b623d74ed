"""Cutting the work of embedding into calls: pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.ingestion.chunking import Chunk

Ranges = Sequence[tuple[int, int]]
"""Ordinals as half-open ranges, ascending, that do not touch."""


@dataclass(frozen=True, slots=True)
class SpaceLimits:
    """What a space's provider takes."""

    name: str
    """Of the space."""
    texts_per_call: int
    tokens_per_text: int
    tokens_per_minute: int
    """0 when there is no such limit."""


def count(kept: Ranges) -> int:
    """How many ordinals the ranges hold."""
    return sum(end - start for start, end in kept)


def batches(
    chunks: Sequence[Chunk], kept: Ranges, *, texts: int, tokens: int
) -> Iterator[Sequence[Chunk]]:
    """The chunks that are not kept yet, in runs without a gap, each one call.

    Args:
        chunks: Every chunk of the version, in the order of ordinals.
        kept: Ordinals that retrieval has acknowledged.
        texts: Chunks a call may carry.
        tokens: Tokens a call may carry; 0 for any number. A single larger chunk goes alone.
    """
    done = {ordinal for start, end in kept for ordinal in range(start, end)}
    batch: list[Chunk] = []
    size = 0
    for each in chunks:
        missing = each.ordinal not in done
        full = len(batch) >= texts or (tokens and size + each.token_count > tokens)
        if batch and (full or not missing):
            yield batch
            batch, size = [], 0
        if missing:
            batch.append(each)
            size += each.token_count
    if batch:
        yield batch
