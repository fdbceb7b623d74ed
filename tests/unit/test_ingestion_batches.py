"""How the work of embedding is cut into calls."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.ingestion.batches import batches, count
from services.ingestion.chunking import Chunk


def chunks_of(tokens: list[int]) -> list[Chunk]:
    return [Chunk(n, n, n + 1, "x", size, 0, 0, ()) for n, size in enumerate(tokens)]


sizes = st.lists(st.integers(1, 300), max_size=60)


@given(sizes, st.data(), st.integers(1, 10), st.sampled_from([0, 100, 500]))
def test_batches_hold_what_is_missing_once_in_order_and_within_the_limits(
    tokens: list[int], data: st.DataObject, texts: int, most: int
) -> None:
    marks = sorted(data.draw(st.sets(st.integers(0, len(tokens)), max_size=6)))
    kept = list(zip(marks[::2], marks[1::2], strict=False))
    held = {ordinal for start, end in kept for ordinal in range(start, end)}
    assert count(kept) == len(held)
    found = list(batches(chunks_of(tokens), kept, texts=texts, tokens=most))
    ordinals = [chunk.ordinal for batch in found for chunk in batch]
    assert ordinals == [n for n in range(len(tokens)) if n not in held]
    for batch in found:
        assert 1 <= len(batch) <= texts
        # Kept as one range, so it must be one.
        assert batch[-1].ordinal - batch[0].ordinal == len(batch) - 1
        total = sum(chunk.token_count for chunk in batch)
        assert not most or total <= most or len(batch) == 1
