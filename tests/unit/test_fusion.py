"""Fusion as mathematics: whatever the lists, these hold."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.fusion import RRF_K, Fused, Fusion, RankedList, fuse, fuse_to_depth
from services.retrieval.mixing import mix

methods = st.sampled_from(list(Fusion))


@st.composite
def ranked(draw: st.DrawFn, max_key: int = 30) -> RankedList:
    keys = draw(st.lists(st.integers(1, max_key), unique=True, max_size=20))
    finite = st.floats(-1e6, 1e6, allow_nan=False)
    scores = sorted(draw(st.lists(finite, min_size=len(keys), max_size=len(keys))), reverse=True)
    floor = draw(st.none() | finite)
    return RankedList(keys, scores, draw(st.floats(0.01, 10)), floor)


lists = st.lists(ranked(), max_size=4)


@given(lists, methods, st.randoms())
def test_the_order_of_the_lists_does_not_matter(
    given_lists: list[RankedList], method: Fusion, random: object
) -> None:
    shuffled = list(given_lists)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert fuse(shuffled, method) == fuse(given_lists, method)


@given(lists, ranked(), methods)
def test_appearing_in_one_more_list_never_lowers_a_score(
    given_lists: list[RankedList], extra: RankedList, method: Fusion
) -> None:
    before = {item.key: item.score for item in fuse(given_lists, method)}
    after = {item.key: item.score for item in fuse([*given_lists, extra], method)}
    assert all(after[key] >= score for key, score in before.items())
    assert set(extra.keys) <= set(after)


@given(lists, ranked(), methods)
def test_weight_zero_equals_absence(
    given_lists: list[RankedList], extra: RankedList, method: Fusion
) -> None:
    silent = replace(extra, weight=0.0)
    assert fuse([*given_lists, silent], method) == fuse(given_lists, method)


@given(lists, methods)
def test_the_ranking_descends_and_ties_go_by_key(
    given_lists: list[RankedList], method: Fusion
) -> None:
    order = [(-item.score, item.key) for item in fuse(given_lists, method)]
    assert order == sorted(order)


@given(ranked(), methods)
def test_a_single_list_keeps_its_order_up_to_ties(only: RankedList, method: Fusion) -> None:
    place = {key: rank for rank, key in enumerate(only.keys)}
    fused = fuse([only], method)
    for better, worse in pairwise(fused):
        assert better.score == worse.score or place[better.key] < place[worse.key]


@given(lists, methods, st.integers(1, 25))
def test_longer_lists_leave_the_first_hits_as_they_are(
    given_lists: list[RankedList], method: Fusion, depth: int
) -> None:
    short = [replace(one, keys=one.keys[:depth], scores=one.scores[:depth]) for one in given_lists]
    first = fuse(short, method)
    whole = fuse_to_depth(given_lists, method, depth)
    assert whole[: len(first)] == first
    assert {item.key for item in whole} == {key for one in given_lists for key in one.keys}
    assert len({item.key for item in whole}) == len(whole)
    scores = [item.score for item in whole]
    assert scores == sorted(scores, reverse=True)


def test_reciprocal_rank_fusion_is_the_published_formula() -> None:
    fused = fuse([RankedList([7, 8], [3.0, 1.0]), RankedList([8, 9], [0.9, 0.8])])
    assert [item.key for item in fused] == [8, 7, 9]
    assert fused[0].score == pytest.approx(1 / (RRF_K + 2) + 1 / (RRF_K + 1))
    assert fused[1].score == pytest.approx(1 / (RRF_K + 1))


def test_min_max_counts_a_list_of_equals_fully() -> None:
    fused = fuse([RankedList([1, 2], [5.0, 5.0]), RankedList([2], [0.1])], Fusion.MIN_MAX)
    assert fused == [Fused(2, 2.0), Fused(1, 1.0)]


def test_min_max_scales_from_what_does_not_match_at_all() -> None:
    words = RankedList([1, 2], [10.0, 9.0], floor=0.0)
    assert fuse([words], Fusion.MIN_MAX) == [Fused(1, 1.0), Fused(2, 0.9)]


def test_a_second_opinion_moves_a_hit_but_does_not_replace_the_order() -> None:
    fused = [Fused(1, 0.03), Fused(2, 0.029), Fused(3, 0.01)]
    mixed = mix(fused, {1: 0.1, 2: 0.9}, 0.5)
    assert [item.key for item in mixed] == [2, 1, 3]
    # The first stage was certain: a slightly better opinion does not turn it over.
    assert mix(fused, {1: 0.5, 3: 0.6}, 0.5)[0].key == 1


@given(
    ranked().filter(lambda only: len(only.keys) > 1),
    st.dictionaries(st.integers(1, 30), st.floats(0, 1), max_size=10),
    st.floats(0, 0.99),
)
def test_hits_without_a_second_opinion_keep_their_order(
    only: RankedList, opinions: dict[int, float], weight: float
) -> None:
    fused = fuse([only])
    mixed = mix(fused, opinions, weight)
    assert sorted(item.key for item in mixed) == sorted(item.key for item in fused)
    silent = [item.key for item in mixed if item.key not in opinions]
    assert silent == [item.key for item in fused if item.key not in opinions]
    scores = [item.score for item in mixed]
    assert scores == sorted(scores, reverse=True)
