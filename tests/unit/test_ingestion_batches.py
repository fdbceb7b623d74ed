"""How the work of embedding is cut into calls, and how calls are paced."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.ingestion.batches import Pace, batches, count
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


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 900)), max_size=80))
def test_no_minute_sees_more_than_the_limit_and_one_burst(calls: list[tuple[float, int]]) -> None:
    pace, now = Pace(tokens_per_minute=6000), 0.0
    sent: list[tuple[float, int]] = []
    for pause, tokens in calls:
        now += pause
        sent.append((now + pace.take(tokens, now), tokens))
    for began, _ in sent:
        inside = [tokens for at, tokens in sent if began <= at < began + 60]
        # The one that overdraws the bucket is let through at the moment it is paid for.
        assert sum(inside) <= 6000 + pace.capacity + max(inside) + 1


def test_a_call_within_the_burst_does_not_wait() -> None:
    pace = Pace(tokens_per_minute=6000)
    assert pace.take(600, 0.0) == 0.0
    assert pace.take(100, 0.0) == 1.0
    assert pace.take(1, 3600.0) == 0.0
