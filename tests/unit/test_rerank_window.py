"""Windows and orders: what a cross-encoder reads, and what its scores become."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rerank.ranking import Scored, best_first, sigmoid
from services.rerank.window import best_window, starts

tokens = st.lists(st.integers(0, 40), max_size=300)


@given(passage=tokens, query=tokens, size=st.integers(1, 120))
def test_a_window_is_a_full_part_of_the_passage(
    passage: list[int], query: list[int], size: int
) -> None:
    window = best_window(passage, query, size)
    assert len(passage[window]) == min(size, len(passage))


@given(length=st.integers(2, 1000), data=st.data())
def test_windows_cover_every_token_and_overlap(length: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, length - 1))
    begins = starts(length, size)
    covered = {place for begin in begins for place in range(begin, begin + size)}
    assert covered == set(range(length))
    assert begins == sorted(set(begins))
    assert all(after - before <= max(1, size // 4) for before, after in pairwise(begins))


@given(passage=st.lists(st.integers(0, 40), min_size=1, max_size=300), size=st.integers(4, 80))
def test_no_other_window_shares_more_with_the_query(passage: list[int], size: int) -> None:
    query = {3, 7, 11}

    def shared(part: list[int]) -> float:
        return math.fsum(1 / passage.count(token) for token in query & set(part))

    chosen = shared(passage[best_window(passage, sorted(query), size)])
    if len(passage) > size:
        others = [shared(passage[at : at + size]) for at in starts(len(passage), size)]
        assert chosen == pytest.approx(max(others))


@given(passage=tokens, query=tokens, size=st.integers(1, 120))
def test_the_order_of_the_query_does_not_matter(
    passage: list[int], query: list[int], size: int
) -> None:
    assert best_window(passage, query, size) == best_window(passage, query[::-1], size)


@given(at=st.integers(0, 499), size=st.integers(4, 100))
def test_the_only_mention_is_inside_the_window(at: int, size: int) -> None:
    passage = [1] * 500
    passage[at] = 9
    window = best_window(passage, [1, 9], size)
    assert 9 in passage[window]


def test_a_rare_word_outweighs_several_common_ones() -> None:
    common, rare = [1, 2, 3] * 60, [7] + [0] * 60
    window = best_window(common + rare, [1, 2, 3, 7], 40)
    assert 7 in (common + rare)[window]


def test_without_anything_in_common_the_opening_is_read() -> None:
    assert best_window([1] * 300, [5], 100) == slice(0, 100)


@given(st.floats(-1000, 1000))
def test_scores_are_probabilities_and_mirror_each_other(logit: float) -> None:
    assert 0.0 <= sigmoid(logit) <= 1.0
    assert sigmoid(logit) + sigmoid(-logit) == pytest.approx(1.0)


logits = st.lists(st.integers(-5, 5).map(float), max_size=40)


@given(logits=logits, data=st.data())
def test_the_best_come_first_and_ties_keep_the_callers_order(
    logits: list[float], data: st.DataObject
) -> None:
    scored = [Scored(index, logit) for index, logit in enumerate(logits)]
    ordered = best_first(data.draw(st.permutations(scored)))
    assert ordered == sorted(scored, key=lambda each: -each.logit)


@given(logits=logits, top=st.integers(1, 50))
def test_top_n_is_the_head_of_the_whole_order(logits: list[float], top: int) -> None:
    scored = [Scored(index, logit) for index, logit in enumerate(logits)]
    assert best_first(scored, top) == best_first(scored)[:top]


def test_scores_too_large_for_a_probability_are_still_told_apart() -> None:
    ordered = best_first([Scored(0, 40.0), Scored(1, 50.0)])
    assert [each.index for each in ordered] == [1, 0]
    assert ordered[0].score == ordered[1].score == 1.0
