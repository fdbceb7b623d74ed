"""A list whose model does not know the query's language counts little, and no list for nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.language import Language, detect
from services.retrieval.fusion import Fusion, RankedList, fuse
from services.retrieval.trust import (
    LEAD_COUNTS,
    UNTRUSTED,
    certainty,
    covers,
    dense_trust,
    space_languages,
)

ENGLISH, MANY = "local/bge-small-en-v1.5@384", "gemini/gemini-embedding-001@768"


@pytest.mark.parametrize("method", list(Fusion))
def test_an_english_space_is_not_trusted_with_a_german_question(method: Fusion) -> None:
    german = detect("Wie viele Urlaubstage haben Beschäftigte?")
    assert dense_trust(ENGLISH, german, method) == UNTRUSTED[method]
    assert dense_trust(MANY, german, method) == 1.0
    assert dense_trust(ENGLISH, detect("How many days off do we get?"), method) == 1.0


def test_a_name_or_a_number_is_in_every_language() -> None:
    assert covers(("en",), detect("ERR-4711"))
    assert covers(("en",), Language("de", 0.1))
    assert not covers(("en",), Language("de", 0.9))
    assert covers((), Language("de", 0.9))


@pytest.mark.parametrize(
    ("space", "languages"),
    [
        (ENGLISH, ("en",)),
        (MANY, ()),
        ("cohere/embed-english-v3.0@1024", ("en",)),
        ("cohere/embed-v4.0@1024", ()),
        ("local/of-another-release@8", ()),
    ],
)
def test_a_space_says_by_its_name_which_languages_it_knows(
    space: str, languages: tuple[str, ...]
) -> None:
    assert tuple(space_languages(space)) == languages


@given(
    st.lists(st.integers(1, 200), unique=True, min_size=1, max_size=100),
    st.lists(st.integers(1, 200), unique=True, max_size=100),
)
def test_by_rank_an_untrusted_list_moves_no_hit_of_the_first_ranks(
    trusted: list[int], doubtful: list[int]
) -> None:
    lists = [
        RankedList(trusted, [0.0] * len(trusted)),
        RankedList(doubtful, [0.0] * len(doubtful), UNTRUSTED[Fusion.RRF]),
    ]
    order = [item.key for item in fuse(lists)]
    assert order[:10] == (trusted + [key for key in doubtful if key not in trusted])[:10]
    assert set(order) == {*trusted, *doubtful}


@given(st.lists(st.floats(-1e6, 1e6), max_size=50))
def test_certainty_is_between_one_and_its_most(scores: list[float]) -> None:
    assert 1.0 <= certainty(sorted(scores, reverse=True)) <= 1.0 + LEAD_COUNTS


def test_a_list_whose_first_hit_stands_out_weighs_more() -> None:
    assert certainty([10.0, 1.0, 1.0]) == 1.0 + LEAD_COUNTS
    assert certainty([10.0, 9.0, 1.0]) < certainty([10.0, 5.0, 1.0])
    assert certainty([3.0, 3.0, 3.0]) == certainty([]) == 1.0


def test_the_only_passage_that_has_a_word_is_not_outvoted_by_fifty_that_are_like_it() -> None:
    words, vectors = [12.0], [0.72, 0.71, 0.70]
    lists = [
        RankedList([7], words, certainty(words)),
        RankedList([1, 2, 3], vectors, certainty(vectors)),
    ]
    assert fuse(lists)[0].key == 7
