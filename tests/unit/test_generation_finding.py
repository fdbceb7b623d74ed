"""Searching for an answer: what comes with the hits, and what is asked for where it does not."""

from __future__ import annotations

from typing import Any

import pytest

from citemesh.retrieval import v1 as retrieval_v1
from services.generation import scoped_search
from services.generation.answers import SearchFilter
from services.generation.calls.finding import FindingCalls

PERIODS = "How did net sales develop from Q1 2022 to Q2 2022?"


def stored(document: str, ordinal: int, title: str = "Handbook") -> retrieval_v1.StoredChunk:
    name = f"{document}.1.{ordinal}"
    return retrieval_v1.StoredChunk(
        chunk_id=name, document_id=document, version=1, ordinal=ordinal, title=title, text=name
    )


class Retrieval:
    """Finds one chunk of each document it has, or of those that the filter names."""

    def __init__(self, documents: dict[str, str], *, old: bool = False) -> None:
        self.documents = documents
        self.old = old
        self.asked: list[retrieval_v1.SearchRequest] = []

    async def Search(
        self, request: retrieval_v1.SearchRequest, **_: Any
    ) -> retrieval_v1.SearchResponse:
        self.asked.append(request)
        wanted = set(request.filter.document_ids) or set(self.documents)
        found = {name: title for name, title in self.documents.items() if name in wanted}
        response = retrieval_v1.SearchResponse(
            hits=[
                retrieval_v1.Hit(chunk=stored(name, 5, title), score=1.0)
                for name, title in found.items()
            ]
        )
        if request.neighbour_chunks and not self.old:
            chunks = [stored(name, ordinal) for name in found for ordinal in (4, 6)]
            response.neighbours.CopyFrom(retrieval_v1.Neighbours(chunks=chunks))
        return response


async def find(retrieval: Retrieval, text: str, *, neighbours: bool = True) -> Any:
    nobody: Any = None
    calls: Any = retrieval
    return await scoped_search.find(
        FindingCalls(nobody, calls),
        text,
        None,
        SearchFilter((), ()),
        passages=8,
        bypass_cache=False,
        seconds=1.0,
        neighbours=neighbours,
    )


async def test_the_neighbours_of_the_hits_come_with_them() -> None:
    retrieval = Retrieval({"doc_a": "Handbook"})
    found = await find(retrieval, "How many days?")
    assert list(found.neighbours) == ["doc_a.1.4", "doc_a.1.6"]
    assert [(r.neighbours, r.neighbour_chunks) for r in retrieval.asked] == [(1, True)]


async def test_who_reads_only_hits_is_sent_no_neighbours() -> None:
    retrieval = Retrieval({"doc_a": "Handbook"})
    assert (await find(retrieval, "How many days?", neighbours=False)).neighbours is None
    assert [(r.neighbours, r.neighbour_chunks) for r in retrieval.asked] == [(0, False)]


async def test_a_retrieval_of_the_release_before_sends_none_and_is_told_apart() -> None:
    found = await find(Retrieval({"doc_a": "Handbook"}, old=True), "How many days?")
    assert found.neighbours is None


@pytest.mark.parametrize("old", [False, True])
async def test_searches_side_by_side_bring_the_neighbours_of_all_or_none(old: bool) -> None:
    titles = {"doc_a": "2022 Q1 AAPL", "doc_b": "2022 Q2 AAPL"}
    retrieval = Retrieval(titles, old=old)
    found = await find(retrieval, PERIODS)
    # The wide search only tells which documents there are.
    assert [r.neighbour_chunks for r in retrieval.asked] == [False, True, True]
    names = {"doc_a.1.4", "doc_a.1.6", "doc_b.1.4", "doc_b.1.6"}
    assert (found.neighbours is None) if old else (set(found.neighbours) == names)
