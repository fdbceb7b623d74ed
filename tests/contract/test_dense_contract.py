"""Dense search: whoever looks gets k neighbours, and the right ones."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from services.retrieval.candidates import Viewer, Wanted, fetch_candidates
from services.retrieval.passages import Filter, Vectors
from services.retrieval.spaces import SpaceTables
from tests.contract.retrieval_room import Room, open_room, project_id

DIMENSIONS = 48
SPACE = f"test/clusters@{DIMENSIONS}"
ROWS = 6000
DEPTH = 50
SHARES = {"large": 0.878, "tenth": 0.1, "fiftieth": 0.02, "tiny": 0.002}


@dataclass(frozen=True, slots=True)
class Corpus:
    room: Room
    number: int
    projects: dict[str, str]
    keys: dict[str, list[int]]
    vectors: dict[str, Vectors]
    restricted: set[int]
    """Keys of the large project that only `group:few` may see: a twentieth."""

    def query(self, seed: int) -> Vectors:
        random = np.random.default_rng(seed)
        near = self.vectors["large"][random.integers(len(self.vectors["large"]))]
        return (near + 0.05 * random.normal(size=DIMENSIONS)).astype(np.float32)

    def exact(self, name: str, query: Vectors, among: set[int] | None = None) -> list[int]:
        cosine = self.vectors[name] @ (query / np.linalg.norm(query))
        ranked = [self.keys[name][i] for i in np.argsort(-cosine, kind="stable")]
        return [key for key in ranked if among is None or key in among]

    async def dense(
        self, name: str, query: Vectors, principals: tuple[str, ...] = (), **restrict: Any
    ) -> tuple[list[int], list[float]]:
        found = await fetch_candidates(
            self.room.database,
            Viewer(self.projects[name], principals),
            Wanted(DEPTH, 10, Filter(**restrict), 1.0, 1.0),
            space_number=self.number,
            vector=query,
            lexical_keys=[],
        )
        assert set(found.rows) == set(found.dense_keys[:10])
        return list(found.dense_keys), list(found.similarities)


@pytest.fixture(scope="module")
async def corpus(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Corpus]:
    """Clustered vectors of four projects of very different sizes, in one table."""
    random = np.random.default_rng(11)
    centres = random.normal(size=(60, DIMENSIONS))
    directory = tmp_path_factory.mktemp("lexical")
    async with open_room(postgres.dsn("retrieval"), postgres.owner_dsn, directory) as room:
        number = await SpaceTables(room.database).ensure(SPACE)
        corpus = Corpus(room, number, {}, {}, {}, set())
        for name, share in SHARES.items():
            count = int(ROWS * share)
            vectors = centres[random.integers(60, size=count)]
            vectors = vectors + 0.6 * random.normal(size=(count, DIMENSIONS))
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            await _load(corpus, name, vectors.astype(np.float32))
        await room.owner.execute("ANALYZE")
        yield corpus


async def _load(corpus: Corpus, name: str, vectors: Vectors) -> None:
    """Rows written straight into the tables: what is tested is how they are found."""
    owner, project = corpus.room.owner, project_id()
    count = len(vectors)
    documents = [f"doc_{n:05d}" for n in range(count)]
    few = set(range(0, count, 20)) if name == "large" else set()
    allow = [["group:few"] if n in few else [] for n in range(count)]
    await owner.copy_records_to_table(
        "document",
        schema_name="retrieval",
        columns=["project_id", "document_id", "live_version", "lease_epoch", "allow"],
        records=[(project, documents[n], 1, 1, allow[n]) for n in range(count)],
    )
    rows = await owner.fetch(
        "INSERT INTO retrieval.chunk (project_id, document_id, version, ordinal, body, page, "
        "page_end, headings, span_start, span_end, section, token_count, language, flags) "
        "SELECT $1, d, 1, 0, d, 1, 1, '{}', 0, 9, '', 1, 'en', '{}' FROM unnest($2::text[]) AS d "
        "RETURNING id, document_id",
        project,
        documents,
    )
    keys = {row["document_id"]: row["id"] for row in rows}
    await owner.executemany(
        f"INSERT INTO retrieval.dense_{corpus.number} VALUES ($1, $2, $3, 1, $4::real[]::halfvec)",
        [
            (keys[document], project, document, vector.tolist())
            for document, vector in zip(documents, vectors, strict=True)
        ],
    )
    await owner.execute(
        "INSERT INTO retrieval.project_state (project_id, live_chunks) VALUES ($1, $2)",
        project,
        count,
    )
    corpus.projects[name] = project
    corpus.keys[name] = [keys[document] for document in documents]
    corpus.vectors[name] = vectors
    corpus.restricted.update(keys[documents[n]] for n in few)


@pytest.mark.parametrize("name", SHARES)
async def test_a_project_of_any_share_gets_k_neighbours_and_the_right_ones(
    corpus: Corpus, name: str
) -> None:
    visible = set(corpus.keys[name]) - corpus.restricted
    recalls = []
    for seed in range(20):
        query = corpus.query(seed)
        keys, similarities = await corpus.dense(name, query)
        assert len(keys) == min(DEPTH, len(visible))
        assert set(keys) <= visible
        assert similarities == sorted(similarities, reverse=True)
        best = corpus.exact(name, query, visible)[:10]
        recalls.append(len(set(keys[:10]) & set(best)) / len(best))
    assert np.mean(recalls) >= 0.95


async def test_a_list_deeper_than_the_default_is_whole_and_right(corpus: Corpus) -> None:
    depth = 300
    visible = set(corpus.keys["large"]) - corpus.restricted
    recalls = []
    for seed in range(10):
        query = corpus.query(seed)
        found = await fetch_candidates(
            corpus.room.database,
            Viewer(corpus.projects["large"], ()),
            Wanted(depth, 10, Filter(), 1.0, 1.0),
            space_number=corpus.number,
            vector=query,
            lexical_keys=[],
        )
        assert len(found.dense_keys) == depth
        best = corpus.exact("large", query, visible)[:depth]
        recalls.append(len(set(found.dense_keys) & set(best)) / depth)
    assert np.mean(recalls) >= 0.95


async def test_words_are_checked_whether_the_dense_list_holds_them_or_not(corpus: Corpus) -> None:
    own, other = corpus.keys["large"], corpus.keys["tenth"][:5]
    query = corpus.query(2)
    near = corpus.exact("large", query, set(own) - corpus.restricted)[:5]
    far = [key for key in own[-40:] if key not in corpus.restricted][:5]
    hidden = sorted(corpus.restricted)[:5]
    found = await fetch_candidates(
        corpus.room.database,
        Viewer(corpus.projects["large"], ()),
        Wanted(DEPTH, 10, Filter(), 1.0, 1.0),
        space_number=corpus.number,
        vector=query,
        lexical_keys=[hidden[0], *near, *other, *far, *hidden[1:], 10**12],
    )
    assert list(found.lexical_keys) == [*near, *far]


async def test_who_may_see_a_twentieth_still_gets_k_neighbours(corpus: Corpus) -> None:
    owner, project = corpus.room.owner, corpus.projects["large"]
    hide = "UPDATE retrieval.document SET allow = $2 WHERE project_id = $1 AND allow = $3"
    await owner.execute(hide, project, ["group:many"], [])
    try:
        for seed in range(5):
            query = corpus.query(seed)
            keys, _ = await corpus.dense("large", query, ("group:few", "user:ann"))
            assert len(keys) == DEPTH
            best = corpus.exact("large", query, corpus.restricted)[:10]
            assert len(set(keys[:10]) & set(best)) >= 9
        keys, _ = await corpus.dense("large", corpus.query(1), ("group:nobody",))
        assert keys == []
    finally:
        await owner.execute(hide, project, [], ["group:many"])


async def test_a_filter_that_leaves_one_document_finds_it(corpus: Corpus) -> None:
    keys, _ = await corpus.dense("large", corpus.query(3), document_ids=["doc_00007"])
    assert keys == [corpus.keys["large"][7]]
    keys, _ = await corpus.dense("large", corpus.query(3), labels={"team": "nobody"})
    assert keys == []


async def test_similarity_is_the_cosine(corpus: Corpus) -> None:
    query = corpus.query(4) * 17
    keys, similarities = await corpus.dense("tenth", query)
    at = corpus.keys["tenth"].index(keys[0])
    cosine = float(corpus.vectors["tenth"][at] @ query / np.linalg.norm(query))
    assert similarities[0] == pytest.approx(cosine, abs=2e-3)


async def test_the_large_project_is_searched_through_the_vector_index(corpus: Corpus) -> None:
    """Guards the plan: the exact scan would answer too, and slower with every document."""
    scans = (
        "SELECT sum(idx_scan) FROM pg_stat_user_indexes "
        f"WHERE relname = 'dense_{corpus.number}' AND indexrelname LIKE '%embedding%'"
    )
    deadline = time.monotonic() + 10
    while not await corpus.room.owner.fetchval(scans):
        assert time.monotonic() < deadline, "the vector index was never used"
        await corpus.dense("large", corpus.query(6))
