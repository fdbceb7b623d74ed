"""The pure parts of retrieval: windows around hits, chunk ids, vectors, CJK terms."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.errors import InvalidInput, MeshError, Precondition, Unavailable
from services.retrieval.filling.lives import SpaceLives
from services.retrieval.neighbours import Piece, join, windows, within
from services.retrieval.passages import parse_chunk_id
from services.retrieval.spaces import check_vectors, dimensions_of

SPACE = "local/bge-small-en-v1.5@4"
ordinals = st.lists(st.integers(0, 40), unique=True, min_size=1, max_size=8)


@given(ordinals, st.integers(0, 5))
def test_windows_never_overlap_and_hold_their_own_hit(hits: list[int], reach: int) -> None:
    spans = windows(hits, reach)
    covered = [ordinal for window in spans for ordinal in window]
    assert len(covered) == len(set(covered))
    for hit, window in zip(hits, spans, strict=True):
        assert hit in window
        assert window.start >= max(0, hit - reach)
        assert window.stop - 1 <= hit + reach


@given(ordinals, st.integers(0, 5))
def test_windows_leave_out_nothing_within_reach(hits: list[int], reach: int) -> None:
    covered = {ordinal for window in windows(hits, reach) for ordinal in window}
    assert covered == {near for hit in hits for near in range(max(0, hit - reach), hit + reach + 1)}


def test_a_chunk_in_the_middle_goes_to_the_better_hit() -> None:
    assert windows([5, 3], 2) == [range(4, 8), range(1, 4)]


@given(st.text(min_size=1, max_size=200), st.data())
def test_joined_windows_are_the_text_they_were_cut_from(text: str, data: st.DataObject) -> None:
    pieces, start = [], 0
    while start < len(text):
        end = data.draw(st.integers(start + 1, len(text)))
        begin = data.draw(st.integers(max(0, start - 5), start))
        pieces.append(Piece(len(pieces), text[begin:end], begin, end, 1))
        start = end
    data.draw(st.randoms()).shuffle(pieces)
    assert join(pieces) == text


def test_a_gap_between_two_chunks_stays_visible() -> None:
    assert join([Piece(0, "ab", 0, 2, 1), Piece(1, "ef", 4, 6, 1)]) == "ab\n\nef"


@given(ordinals, st.integers(0, 5), st.integers(0, 4000), st.randoms())
def test_windows_of_a_budget_keep_their_hits_and_stay_within_it(
    hits: list[int], reach: int, budget: int, random: Any
) -> None:
    spans = windows(hits, reach)
    sizes = [{ordinal: random.randint(1, 200) for ordinal in window} for window in spans]
    kept = within(budget, hits, spans, sizes)
    own = sum(size[hit] for hit, size in zip(hits, sizes, strict=True))
    spent = sum(size[at] for size, window in zip(sizes, kept, strict=True) for at in window)
    assert spent <= max(budget, own)
    for hit, window, span in zip(hits, kept, spans, strict=True):
        assert hit in window
        assert set(window) <= set(span)
    assert within(10**6, hits, spans, sizes) == spans


def test_a_budget_goes_to_near_neighbours_and_better_hits_first() -> None:
    spans = [range(8, 13), range(5)]
    sizes = [dict.fromkeys(span, 10) for span in spans]
    assert within(20, [10, 2], spans, sizes) == [range(10, 11), range(2, 3)]
    assert within(40, [10, 2], spans, sizes) == [range(9, 12), range(2, 3)]
    assert within(70, [10, 2], spans, sizes) == [range(8, 12), range(1, 4)]


def test_a_window_of_a_budget_ends_at_a_chunk_that_is_not_there() -> None:
    assert within(100, [5], [range(3, 8)], [{3: 1, 5: 1, 6: 1, 7: 1}]) == [range(5, 8)]


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("doc_1.2.3", ("doc_1", 2, 3)),
        ("a.b.2.3", ("a.b", 2, 3)),
        ("doc_1", None),
        (".1.2", None),
        ("doc.x.1", None),
        ("doc.-1.1", None),
        ("doc.²." + "1", None),
        ("doc." + "9" * 30 + ".1", None),
    ],
)
def test_only_chunk_ids_are_read_as_chunk_ids(
    text: str, parsed: tuple[str, int, int] | None
) -> None:
    assert parse_chunk_id(text) == parsed


@pytest.mark.parametrize(
    ("vector", "error", "reason"),
    [
        ([1.0, 0.0, 0.0], Precondition, "SPACE_MISMATCH"),
        ([0.0, 0.0, 0.0, 0.0], InvalidInput, "VECTOR_INVALID"),
        ([1e-12, 0.0, 0.0, 0.0], InvalidInput, "VECTOR_INVALID"),
        ([float("nan"), 0.0, 0.0, 1.0], InvalidInput, "VECTOR_INVALID"),
        ([float("inf"), 0.0, 0.0, 1.0], InvalidInput, "VECTOR_INVALID"),
        ([1e6, 0.0, 0.0, 1.0], InvalidInput, "VECTOR_INVALID"),
    ],
)
def test_a_vector_that_cannot_be_compared_is_refused(
    vector: list[float], error: type[MeshError], reason: str
) -> None:
    good = [0.0, 1.0, 0.0, 0.0][: len(vector)]
    with pytest.raises(error) as refused:
        check_vectors(np.array([good, vector], dtype=np.float32), SPACE)
    assert refused.value.reason == reason


def test_a_mismatch_names_both_sides() -> None:
    with pytest.raises(Precondition) as refused:
        check_vectors(np.ones((1, 3), dtype=np.float32), SPACE)
    assert SPACE in refused.value.detail
    assert "3" in refused.value.detail


@pytest.mark.parametrize("name", ["", "bge", "local/bge", "local/bge@0", "bge@4", "a/b@4001"])
def test_a_space_must_say_its_dimensions(name: str) -> None:
    with pytest.raises(InvalidInput):
        dimensions_of(name)


async def test_that_spaces_are_not_known_is_said_once_until_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcomes = [*["AWAY"] * 5, "BUSY", "", "", "AWAY"]

    class Scripted(SpaceLives):
        def __init__(self) -> None:
            pass

        async def agree(self) -> None:
            if not outcomes:
                raise asyncio.CancelledError
            if reason := outcomes.pop(0):
                raise Unavailable(reason, "x")

    with pytest.raises(asyncio.CancelledError):
        await Scripted().keep(0, 0)
    said = capsys.readouterr().out
    assert said.count("spaces are not known") == 3
    assert said.count("spaces are known") == 1
