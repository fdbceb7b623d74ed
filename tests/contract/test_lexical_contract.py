"""What every lexical back end promises. A new back end joins `BACK_ENDS` and must hold it all."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.retrieval import lexical
from services.retrieval.lexical import (
    LexicalChunk,
    LexicalIndex,
    LexicalQuery,
    LexicalVersion,
    VersionKey,
)
from services.retrieval.lexical.opensearch.client import Options, connect
from services.retrieval.lexical.opensearch.home import OpenSearchHome
from services.retrieval.lexical.tantivy_index import IndexBusy, TantivyIndex

_revisions = itertools.count(1)


def Changes(**batch: Any) -> lexical.Changes:
    """Changes in the order in which they are made here."""
    return lexical.Changes(revision=next(_revisions), **batch)


@asynccontextmanager
async def tantivy_in(directory: Path) -> AsyncIterator[LexicalIndex]:
    index = TantivyIndex(directory)
    try:
        yield index
    finally:
        await index.close()


@asynccontextmanager
async def opensearch_at(url: str) -> AsyncIterator[LexicalIndex]:
    """An index of its own on a node; it is deleted afterwards."""
    client = connect(Options((url,)))
    home = OpenSearchHome(client, prefix="contract", generation=uuid.uuid4().hex, shards=2)
    try:
        yield await home.publish(await home.fresh())
    finally:
        await client.indices.delete(index=f"{home.alias}-*")
        await home.close()


BACK_ENDS = ("tantivy", "opensearch")


@pytest.fixture(params=BACK_ENDS)
async def index(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LexicalIndex]:
    if request.param == "tantivy":
        opening = tantivy_in(tmp_path / "index")
    else:
        opening = opensearch_at(request.getfixturevalue("opensearch"))
    async with opening as opened:
        yield opened


def version(
    texts: dict[int, str],
    *,
    project: str = "prj_a",
    document: str = "doc_1",
    number: int = 1,
    title: str = "",
    labels: dict[str, str] | None = None,
    allow: Sequence[str] = (),
    language: str = "en",
) -> LexicalVersion:
    return LexicalVersion(
        key=VersionKey(project, document, number),
        title=title,
        labels=labels or {},
        allow=allow,
        chunks=[LexicalChunk(key, text, (), language) for key, text in texts.items()],
    )


async def keys(
    index: LexicalIndex,
    text: str,
    *,
    project: str = "prj_a",
    principals: Sequence[str] = (),
    limit: int = 10,
    labels: dict[str, str] | None = None,
    documents: Sequence[str] = (),
) -> list[int]:
    query = LexicalQuery(text, project, principals, limit, labels or {}, documents)
    return (await index.search(query)).keys


async def test_a_word_finds_its_chunk_and_inflections_do_too(index: LexicalIndex) -> None:
    await index.apply(
        Changes(replace=[version({1: "Employees accrue vacation days.", 2: "Badges open doors."})])
    )
    assert await keys(index, "vacations") == [1]
    assert await keys(index, "How does a badge open the door?") == [2]
    assert await keys(index, "submarine") == []


async def test_scores_descend_and_the_rarer_word_counts_more(index: LexicalIndex) -> None:
    texts = dict.fromkeys(range(1, 20), "the report mentions revenue")
    await index.apply(Changes(replace=[version({**texts, 30: "the report mentions goodwill"})]))
    hits = await index.search(LexicalQuery("goodwill report", "prj_a", (), 5, {}, ()))
    assert hits.keys[0] == 30
    assert hits.scores == sorted(hits.scores, reverse=True)
    assert len(hits.keys) == len(hits.scores) == 5


async def test_a_title_helps_to_find_its_chunks(index: LexicalIndex) -> None:
    await index.apply(
        Changes(
            replace=[
                version({1: "Twenty days a year."}, title="Vacation policy"),
                version({2: "Twenty days a year."}, document="doc_2", title="Notice periods"),
            ]
        )
    )
    assert await keys(index, "vacation days a year") == [1, 2]


async def test_two_projects_never_mix_even_with_the_same_words(index: LexicalIndex) -> None:
    await index.apply(
        Changes(
            replace=[
                version({1: "secret merger plan"}, project="prj_a"),
                version({2: "secret merger plan"}, project="prj_b"),
            ]
        )
    )
    assert await keys(index, "secret merger plan", project="prj_a") == [1]
    assert await keys(index, "secret merger plan", project="prj_b") == [2]
    assert await keys(index, "secret merger plan", project="prj") == []
    assert await keys(index, "merger", project="prj_a", documents=["doc_1"]) == [1]


async def test_a_principal_cannot_forge_its_way_into_another_project(index: LexicalIndex) -> None:
    await index.apply(Changes(replace=[version({1: "secret plan"}, allow=["user:eve"])]))
    for principal in ("prj_a\x1fuser:eve", "*", "x\x1fprj_a\x1f*"):
        assert await keys(index, "secret", project="prj_b", principals=[principal]) == []
    assert await keys(index, "secret", project="prj_a", principals=["*"]) == []


async def test_who_may_see_a_twentieth_still_gets_as_many_as_asked_for(
    index: LexicalIndex,
) -> None:
    await index.apply(
        Changes(
            replace=[
                version(
                    {n: "quarterly revenue report"},
                    document=f"doc_{n}",
                    allow=["group:few"] if n % 20 == 0 else ["group:many"],
                )
                for n in range(1, 401)
            ]
        )
    )
    found = await keys(index, "revenue", principals=["group:few"], limit=20)
    assert sorted(found) == list(range(20, 401, 20))
    assert await keys(index, "revenue", principals=["group:other"]) == []


async def test_labels_and_documents_restrict(index: LexicalIndex) -> None:
    await index.apply(
        Changes(
            replace=[
                version({1: "budget"}, document="doc_1", labels={"team": "a", "year": "2024"}),
                version({2: "budget"}, document="doc_2", labels={"team": "a", "year": "2025"}),
                version({3: "budget"}, document="doc_3", labels={"team": "b", "year": "2025"}),
            ]
        )
    )
    assert sorted(await keys(index, "budget", labels={"team": "a"})) == [1, 2]
    assert await keys(index, "budget", labels={"team": "a", "year": "2025"}) == [2]
    assert await keys(index, "budget", labels={"team": "2025"}) == []
    assert sorted(await keys(index, "budget", documents=["doc_1", "doc_3", "doc_9"])) == [1, 3]


async def test_replacing_a_version_leaves_nothing_of_it_behind(index: LexicalIndex) -> None:
    await index.apply(Changes(replace=[version({1: "alpha", 2: "beta"})]))
    await index.apply(Changes(replace=[version({1: "gamma"})]))
    assert await keys(index, "alpha beta gamma") == [1]
    assert await keys(index, "alpha beta") == []


async def test_deleting_a_version_leaves_the_others(index: LexicalIndex) -> None:
    await index.apply(Changes(replace=[version({1: "alpha"}), version({2: "alpha"}, number=2)]))
    await index.apply(Changes(delete=[VersionKey("prj_a", "doc_1", 1)]))
    assert await keys(index, "alpha") == [2]
    await index.apply(Changes(delete=[VersionKey("prj_a", "doc_1", 1)]))
    assert await keys(index, "alpha") == [2]


async def test_the_same_changes_twice_are_the_same_as_once(index: LexicalIndex) -> None:
    changes = Changes(replace=[version({1: "alpha"}), version({2: "alpha"}, document="doc_2")])
    await index.apply(changes)
    once = await index.search(LexicalQuery("alpha", "prj_a", (), 10, {}, ()))
    await index.apply(changes)
    again = await index.search(LexicalQuery("alpha", "prj_a", (), 10, {}, ()))
    # Scores may differ until a merge: Lucene counts what was replaced in its statistics.
    assert sorted(again.keys) == sorted(once.keys)


async def test_the_inventory_counts_what_searches_can_find(index: LexicalIndex) -> None:
    replaced = version({1: "old", 2: "old"}), version({3: "new", 4: "new", 5: "new"})
    for one in replaced:
        await index.apply(Changes(replace=[one]))
    await index.apply(Changes(replace=[version({6: "six"}, document="doc_2", number=7)]))
    await index.apply(Changes(replace=[version({7: "seven"}, document="doc_3")]))
    await index.apply(Changes(replace=[version({8: "eight"}, project="prj_ab")]))
    await index.apply(Changes(delete=[VersionKey("prj_a", "doc_3", 1)]))
    assert await index.inventory("prj_a") == {
        VersionKey("prj_a", "doc_1", 1): 3,
        VersionKey("prj_a", "doc_2", 7): 1,
    }
    assert await index.inventory("prj_none") == {}
    assert await index.projects() == {"prj_a", "prj_ab"}
    await index.apply(Changes(purge=["prj_a"]))
    assert await index.inventory("prj_a") == {}
    assert await index.projects() == {"prj_ab"}


async def test_a_purge_takes_one_project(index: LexicalIndex) -> None:
    await index.apply(
        Changes(replace=[version({1: "alpha"}), version({2: "alpha"}, project="prj_b")])
    )
    await index.apply(Changes(purge=["prj_a"]))
    assert await keys(index, "alpha") == []
    assert await keys(index, "alpha", project="prj_b") == [2]


HOSTILE = [
    "*",
    "vacation OR 1=1",
    'title:"secret" AND project:prj_b',
    "visible:* -vacation",
    "vacation^1000 ~2 [a TO z] {x}",
    'unbalanced "quote (and [bracket',
    "/.*/ \\ + - && || !",
    "project:IN [prj_a prj_b]",
    "\x1fprj_b\x1f*",
    "' ; DROP TABLE chunk; --",
    "NOT vacation",
    "",
    " \n\t",
    "\U0001f600\u200b\ufeff",
    "ünïcödé 'quotes' “typographic”",
    "a" * 8192,
    "word " * 1600,
    " ".join(f"w{n}" for n in range(1500)),
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
async def test_query_syntax_is_only_words(index: LexicalIndex, text: str) -> None:
    await index.apply(
        Changes(
            replace=[
                version({1: "vacation policy"}),
                version({2: "secret vacation policy"}, project="prj_b"),
                version({3: "secret vacation policy"}, document="doc_3", allow=["user:ceo"]),
            ]
        )
    )
    assert set(await keys(index, text)) <= {1}
    assert await keys(index, f"{text[:4000]} vacation") == [1]


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("公司在二零二四年的年度报告中披露了收入。", "年度报告的收入"),
        ("従業員は年に二十日の休暇を取得できます。", "休暇は何日"),
        ("직원은 매년 휴가를 받습니다.", "휴가를 받습니까"),
        ("Mitarbeiter haben Anspruch auf Homeoffice.", "Anspruch auf Homeoffice"),
        ("Los empleados tienen días de vacaciones.", "días de vacaciones"),
        ("The naïve façade of Müller GmbH", "naive facade Muller"),
        ("Error code E-4711 appears", "E-4711"),
    ],
)
async def test_languages_other_than_english_are_found(
    index: LexicalIndex, text: str, query: str
) -> None:
    others = {2: "完全不同的内容关于天气", 3: "something else entirely", 4: "天気がいいです"}
    await index.apply(Changes(replace=[version({1: text, **others})]))
    assert (await keys(index, query))[0] == 1


async def test_what_was_applied_survives_a_restart(tmp_path: Path) -> None:
    async with tantivy_in(tmp_path / "index") as index:
        await index.apply(Changes(replace=[version({1: "durable"})]))
    async with tantivy_in(tmp_path / "index") as index:
        assert await keys(index, "durable") == [1]


async def test_a_second_writer_is_refused_by_name(tmp_path: Path) -> None:
    async with tantivy_in(tmp_path / "index"):
        with pytest.raises(IndexBusy, match="another process"):
            TantivyIndex(tmp_path / "index")


async def test_changes_that_fail_halfway_change_nothing(index: LexicalIndex) -> None:
    await index.apply(Changes(replace=[version({1: "alpha"})]))
    broken = version({2: "beta", 2**70: "too large a key"}, document="doc_2")
    with pytest.raises(Exception):  # noqa: B017, PT011 - each back end has its own
        await index.apply(Changes(delete=[VersionKey("prj_a", "doc_1", 1)], replace=[broken]))
    assert await keys(index, "alpha beta") == [1]
    await index.apply(Changes(replace=[version({3: "gamma"}, document="doc_3")]))
    assert sorted(await keys(index, "alpha beta gamma")) == [1, 3]


SAMPLES = Path(__file__).parents[1] / "samples"
TOLERANCE = 0.02
"""Of the first hit's score: as far as two back ends may differ about a hit."""


async def test_both_back_ends_find_the_same_with_the_same_scores(opensearch: str) -> None:
    texts = [
        paragraph
        for name in ("brightwater-200-manual.md", "firmware-release-notes.txt")
        for paragraph in (SAMPLES / name).read_text().split("\n\n")
        if len(paragraph) > 40
    ]
    corpus = version(dict(enumerate(texts, 1)), title="Brightwater")
    queries = [" ".join(text.split()[2:8]) for text in texts]
    queries += ["How is the membrane replaced?", "battery firmware"]
    async with opensearch_at(opensearch) as other:
        ours = TantivyIndex(None)
        for index in (ours, other):
            await index.apply(Changes(replace=[corpus]))
        for text in queries:
            query = LexicalQuery(text, "prj_a", (), 10, {}, ())
            mine, theirs = _relative(await ours.search(query)), _relative(await other.search(query))
            # Whoever is missing in one list stands at its end, within the tolerance.
            ends = [min(found.values(), default=0.0) for found in (mine, theirs)]
            for key in mine.keys() | theirs.keys():
                here, there = mine.get(key, ends[0]), theirs.get(key, ends[1])
                assert here == pytest.approx(there, abs=TOLERANCE), (text, key)
        # A misspelt word counts as a rare one here and by its neighbours' rarity there.
        misspelt = LexicalQuery("kalibrate oxigen sensor", "prj_a", (), 10, {}, ())
        one, two = await ours.search(misspelt), await other.search(misspelt)
        assert one.keys[0] == two.keys[0]
        assert set(one.keys) == set(two.keys)
        await ours.close()


def _relative(hits: lexical.LexicalHits) -> dict[int, float]:
    """Scores as shares of the first: Lucene's are tantivy's without a constant factor."""
    return {key: score / hits.scores[0] for key, score in zip(hits.keys, hits.scores, strict=True)}
