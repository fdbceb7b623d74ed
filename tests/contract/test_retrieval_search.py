"""Search as a pipeline: what it does without a stage, second opinions, neighbours."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from meshkit import deadline
from meshkit.database.pool import unavailable
from meshkit.errors import BudgetExhausted, DeadlineExceeded, Precondition, Unavailable
from services.retrieval.fusion import Fusion
from services.retrieval.lexical import LexicalHits, LexicalQuery
from services.retrieval.passages import Mode
from services.retrieval.search import Query
from services.retrieval.upstream import QueryVector
from tests.contract.retrieval_room import DOWN, SPACE, Room, open_room, project_id, vector_of


@pytest.fixture(scope="module")
async def opened(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Room]:
    directory = tmp_path_factory.mktemp("lexical")
    async with open_room(postgres.dsn("retrieval"), postgres.owner_dsn, directory) as room:
        yield room


@pytest.fixture
def room(opened: Room) -> Iterator[Room]:
    yield opened
    opened.embedder.error = opened.reranker.error = None
    opened.reranker.likes, opened.reranker.complete = "", True
    opened.reranker.languages, opened.reranker.known = (), None
    opened.reranker.patience = 0.0


@pytest.fixture
async def project(room: Room) -> str:
    name = project_id()
    texts = [f"policy paragraph {n} about topic{n} " for n in range(12)]
    await room.add(name, "doc_1", texts, title="Policies")
    return name


class BrokenIndex:
    """A lexical index whose disk is gone."""

    async def search(self, query: LexicalQuery) -> LexicalHits:
        raise OSError("disk gone")


@pytest.fixture
def without_words(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room.projection, "_index", BrokenIndex())


async def test_without_embedding_words_alone_answer(room: Room, project: str) -> None:
    room.embedder.error = DOWN
    found = await room.search(project, "topic3")
    assert found.degraded == ["dense"]
    assert found.space == ""
    assert found.hits[0].chunk.ordinal == 3
    assert found.hits[0].signals.dense_rank == 0


async def test_without_words_meaning_alone_answers(
    room: Room, project: str, without_words: None
) -> None:
    found = await room.search(project, "policy paragraph 3 about topic3")
    assert found.degraded == ["lexical"]
    assert found.hits[0].chunk.ordinal == 3
    assert found.hits[0].signals.lexical_rank == 0


async def test_without_either_there_is_an_error_with_a_reason(
    room: Room, project: str, without_words: None
) -> None:
    room.embedder.error = DOWN
    with pytest.raises(Unavailable) as failed:
        await room.search(project, "topic3")
    assert failed.value.reason == "SEARCH_UNAVAILABLE"


@pytest.mark.parametrize("error", [DOWN, DeadlineExceeded("DEADLINE_EXCEEDED", "too slow")])
async def test_without_the_cross_encoder_the_fused_order_is_served(
    room: Room, project: str, error: Exception
) -> None:
    plain = await room.search(project, "policy topic5")
    room.reranker.error = error  # type: ignore[assignment]
    found = await room.search(project, Query("policy topic5"))
    assert found.degraded == ["rerank"]
    assert [hit.chunk for hit in found.hits] == [hit.chunk for hit in plain.hits]
    assert all(hit.signals.rerank_score is None for hit in found.hits)


async def test_a_budget_that_is_spent_fails_closed(room: Room, project: str) -> None:
    room.embedder.error = BudgetExhausted("BUDGET_EXHAUSTED", "spent")  # type: ignore[assignment]
    with pytest.raises(BudgetExhausted):
        await room.search(project, "topic3")


async def test_the_second_opinion_moves_hits_and_is_shown(room: Room, project: str) -> None:
    plain = await room.search(project, "policy paragraph about")
    liked = plain.hits[1].chunk
    room.reranker.likes = liked.text
    found = await room.search(project, Query("policy paragraph about"))
    ranks = [hit.chunk.ordinal for hit in found.hits]
    assert ranks.index(liked.ordinal) == 0
    assert found.hits[ranks.index(liked.ordinal)].signals.rerank_score == 0.95
    assert found.hits[ranks.index(liked.ordinal)].signals.fused_rank == 2
    assert [hit.score for hit in found.hits] == sorted(
        (hit.score for hit in found.hits), reverse=True
    )


async def test_a_language_the_cross_encoder_does_not_know_is_not_sent_to_it_twice(
    room: Room, project: str
) -> None:
    german = "Wie lange dauert die Probezeit nach der Richtlinie policy?"
    plain = await room.search(project, german)
    room.reranker.languages = ("en",)
    room.reranker.likes = plain.hits[3].chunk.text
    for _ in range(2):
        room.reranker.seconds.clear()
        found = await room.search(project, Query(german))
        assert [hit.chunk for hit in found.hits] == [hit.chunk for hit in plain.hits]
        assert not found.degraded
        assert all(hit.signals.rerank_score is None for hit in found.hits)
    assert room.reranker.seconds == []
    await room.search(project, Query("What does the policy say about the probation period?"))
    assert len(room.reranker.seconds) == 1


async def test_a_second_opinion_cut_short_is_named(room: Room, project: str) -> None:
    room.reranker.complete = False
    found = await room.search(project, Query("policy"))
    assert found.degraded == ["rerank"]


async def test_the_cross_encoder_gets_a_share_of_the_time_left(room: Room, project: str) -> None:
    await room.search(project, Query("policy"))
    room.reranker.seconds.clear()
    await room.search(project, Query("policy"))
    with deadline.within(0.5):
        await room.search(project, Query("policy"))
    long, short = room.reranker.seconds
    assert long == 0.25
    assert short <= 0.15


async def test_a_reranker_gets_the_time_it_asks_for(room: Room, project: str) -> None:
    room.reranker.patience = 1.5
    await room.search(project, Query("policy"))
    room.reranker.seconds.clear()
    await room.search(project, Query("policy"))
    assert room.reranker.seconds == [1.5]
    with deadline.within(1.0):
        await room.search(project, Query("policy"))
    assert room.reranker.seconds[1] <= 0.3


async def test_while_a_multilingual_reranker_rests_every_language_is_asked_about(
    room: Room, project: str
) -> None:
    german = "Wie lange dauert die Probezeit nach der Richtlinie policy?"
    # The one that knows English alone stands in.
    room.reranker.languages, room.reranker.known = ("en",), ()
    plain = await room.search(project, german)
    room.reranker.likes = plain.hits[3].chunk.text
    room.reranker.seconds.clear()
    found = await room.search(project, Query(german))
    assert [hit.chunk for hit in found.hits] == [hit.chunk for hit in plain.hits]
    assert len(room.reranker.seconds) == 1
    # It is back, and heard at once.
    room.reranker.languages = ()
    found = await room.search(project, Query(german))
    assert any(hit.signals.rerank_score == 0.95 for hit in found.hits)


async def test_a_given_vector_saves_the_embedding(room: Room, project: str) -> None:
    room.embedder.error = DOWN
    query = Query("topic7", vector=QueryVector(vector_of("topic7"), SPACE), rerank=False)
    found = await room.search(project, query)
    assert not found.degraded
    assert found.space == SPACE
    assert "embed" not in found.timings_ms


async def test_a_given_vector_of_another_length_is_refused(room: Room, project: str) -> None:
    query = Query("topic7", vector=QueryVector(vector_of("topic7", 16), SPACE))
    with pytest.raises(Precondition) as refused:
        await room.search(project, query)
    assert refused.value.reason == "SPACE_MISMATCH"


async def test_a_space_that_was_never_filled_leaves_words(room: Room, project: str) -> None:
    query = Query("topic7", vector=QueryVector(vector_of("topic7"), "test/empty@32"), rerank=False)
    found = await room.search(project, query)
    assert found.degraded == ["dense"]
    assert found.hits[0].chunk.ordinal == 7


async def test_every_stage_says_how_long_it_took(room: Room, project: str) -> None:
    found = await room.search(project, Query("policy", neighbours=1))
    stages = {"embed", "dense", "lexical", "fuse", "rerank", "total"}
    assert stages <= set(found.timings_ms)
    assert all(ms >= 0 for ms in found.timings_ms.values())
    assert found.timings_ms["total"] >= found.timings_ms["dense"]


async def test_neighbours_surround_a_hit_in_reading_order(room: Room, project: str) -> None:
    query = Query("topic5", top_k=1, mode=Mode.LEXICAL, rerank=False, neighbours=2)
    (hit,) = (await room.search(project, query)).hits
    assert hit.chunk.ordinal == 5
    places = [hit.context.index(f"topic{n}") for n in (3, 4, 5, 6, 7)]
    assert places == sorted(places)
    assert "topic2" not in hit.context
    assert "topic8" not in hit.context


async def test_windows_of_two_hits_never_overlap(room: Room, project: str) -> None:
    query = Query("policy paragraph about", top_k=6, rerank=False, neighbours=5)
    hits = (await room.search(project, query)).hits
    shown = [number for hit in hits for number in re.findall(r"about topic(\d+)", hit.context)]
    assert len(shown) == len(set(shown)) == 12
    assert all(hit.chunk.text in hit.context for hit in hits)


async def test_contexts_fit_the_budget_of_a_prompt(room: Room, project: str) -> None:
    query = Query("topic5", top_k=1, mode=Mode.LEXICAL, rerank=False, neighbours=5)
    (whole,) = (await room.search(project, query)).hits
    (short,) = (await room.search(project, replace(query, context_tokens=15))).hits
    assert len(whole.context.split()) == 55
    assert short.context.split() == [
        word for n in (4, 5, 6) for word in f"policy paragraph {n} about topic{n}".split()
    ]
    (own,) = (await room.search(project, replace(query, context_tokens=1))).hits
    assert own.context == own.chunk.text


async def test_a_neighbour_with_findings_is_left_out(room: Room) -> None:
    name = project_id()
    texts = [f"paragraph about topic{n} " for n in range(3)]
    await room.write(name, "doc_1", texts, flags={2: ["override"]})
    await room.activate(name, "doc_1", 3)
    query = Query("topic1", top_k=1, mode=Mode.LEXICAL, rerank=False, neighbours=2)
    (hit,) = (await room.search(name, query)).hits
    assert "topic0" in hit.context
    assert "topic2" not in hit.context
    (flagged,) = (await room.search(name, replace(query, text="topic2"))).hits
    assert flagged.chunk.flags == ["override"]
    assert "topic2" in flagged.context


async def test_neighbours_come_as_chunks_of_their_own_for_who_has_little_room(
    room: Room, project: str
) -> None:
    query = Query(
        "topic5", top_k=1, mode=Mode.LEXICAL, rerank=False, neighbours=2, neighbour_chunks=True
    )
    found = await room.search(project, query)
    assert found.neighbours is not None
    assert [chunk.ordinal for chunk in found.neighbours] == [3, 4, 6, 7]
    assert found.hits[0].context == ""
    assert "neighbours" in found.timings_ms
    # Those of better hits come first, and no hit is a neighbour.
    several = await room.search(project, replace(query, text="topic5 topic6", top_k=2))
    assert several.neighbours is not None
    assert {chunk.ordinal for chunk in several.neighbours} == {3, 4, 7, 8}
    nothing = await room.search(project, replace(query, text="unheard"))
    assert (list(nothing.hits), nothing.neighbours) == ([], [])
    assert (await room.search(project, replace(query, neighbour_chunks=False))).neighbours is None


async def test_hits_come_without_their_neighbours_when_those_cannot_be_read(
    room: Room, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        raise unavailable()

    monkeypatch.setattr("services.retrieval.reading.by_id", away)
    query = Query(
        "topic5", top_k=1, mode=Mode.LEXICAL, rerank=False, neighbours=1, neighbour_chunks=True
    )
    found = await room.search(project, query)
    assert found.hits[0].chunk.ordinal == 5
    assert found.neighbours is None


async def test_both_fusions_find_it(room: Room, project: str) -> None:
    for method in Fusion:
        query = Query("policy paragraph 3 about topic3", fusion=method, rerank=False)
        assert (await room.search(project, query)).hits[0].chunk.ordinal == 3


async def test_as_many_hits_as_asked_for(room: Room, project: str) -> None:
    many = project_id()
    for document in range(3):
        texts = [f"common word {document} {n}" for n in range(40)]
        await room.add(many, f"doc_{document}", texts)
    query = Query("common word", rerank=False)
    for top_k in (1, 10, 100):
        hits = (await room.search(many, replace(query, top_k=top_k))).hits
        assert len(hits) == top_k
        assert len({hit.chunk.chunk_id for hit in hits}) == top_k


async def test_an_empty_project_has_no_hits_and_no_error(room: Room) -> None:
    found = await room.search(project_id(), Query("anything"))
    assert found.hits == []
    assert not found.degraded
    assert found.corpus_epoch == 0


async def test_the_epoch_tells_every_change(room: Room, project: str) -> None:
    epochs = [(await room.search(project, "policy")).corpus_epoch]
    await room.add(project, "doc_2", ["more"])
    epochs.append((await room.search(project, "policy")).corpus_epoch)
    await room.corpus.remove(project, "doc_2", 2, "request-9")
    epochs.append((await room.search(project, "policy")).corpus_epoch)
    assert epochs == [1, 2, 3]


async def test_hits_that_another_fusion_prefers_are_read_too(room: Room) -> None:
    """Postgres sends the texts that plain reciprocal rank puts first; here others are."""
    many = project_id()
    await room.add(many, "doc_1", [f"common word{n} " + "filler " * n for n in range(60)])
    query = Query("common word7 word8 filler", fusion=Fusion.MIN_MAX, rerank=False, top_k=5)
    hits = (await room.search(many, query)).hits
    assert len(hits) == 5
    plain = (await room.search(many, replace(query, fusion=Fusion.RRF))).hits
    assert {hit.chunk.chunk_id for hit in hits} != {hit.chunk.chunk_id for hit in plain}
    assert all(hit.chunk.text.startswith("common") for hit in hits)
