"""What a question costs and finds, against an exact search over the same vectors."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import asyncpg
import numpy as np

from loadtest.bench.statistics import percentile
from loadtest.scale.table import Filled
from loadtest.scale.vectors import Corpus, Floats

DEPTH = 50
BEAMS = (20, 40, 60, 100, 150, 200, 400)
_SEARCH = (
    "SELECT * FROM retrieval.search_%d($1, $2, $3, '{}', 10, 1, 1, '{}', NULL, NULL, NULL, NULL)"
)


@dataclass(frozen=True, slots=True)
class Found:
    """Of many questions to one table."""

    p50_ms: float
    p95_ms: float
    recall_at_10: float
    fewest: float
    """Smallest share of min(50, rows of the project) that came back."""


@dataclass(frozen=True, slots=True)
class Beam:
    """The bare index walked with a beam of some width."""

    ef_search: int
    p50_ms: float
    recall_at_10: float
    recall_at_50: float


@dataclass(frozen=True, slots=True)
class Question:
    """A vector asked of a project."""

    place: int
    """Which project."""
    vector: Floats
    best: list[int]
    """Keys of the true nearest rows, best first."""


def questions(corpus: Corpus, table: Filled, count: int) -> list[Question]:
    """Questions near chunks drawn from all rows, so large projects are asked more often."""
    random = np.random.default_rng(23)
    rows = random.integers(corpus.rows, size=count)
    vectors = corpus.questions(table.vectors[rows], seed=29)
    ends = np.cumsum(table.sizes)
    asked = []
    for row, vector in zip(rows, vectors, strict=True):
        place = int(np.searchsorted(ends, row, side="right"))
        where = table.rows_of(place)
        near = table.vectors[where] @ vector
        # Stored vectors are of length 1 but for half precision; the index divides by it.
        near /= np.linalg.norm(table.vectors[where], axis=1)
        order = np.argsort(-near, kind="stable")[:DEPTH]
        asked.append(Question(place, vector, [1 + where.start + int(i) for i in order]))
    return asked


async def search(runtime: asyncpg.Connection[Any], table: Filled, asked: list[Question]) -> Found:
    """The whole statement of a search by meaning, as retrieval's role and with its rights."""
    took, recalls, fewest = [], [], 1.0
    statement = await runtime.prepare(_SEARCH % table.number)
    for question in asked[:20]:
        await statement.fetch(table.projects[question.place], question.vector.tolist(), DEPTH)
    for question in asked:
        vector = question.vector.tolist()
        started = time.perf_counter()
        rows = await statement.fetch(table.projects[question.place], vector, DEPTH)
        took.append((time.perf_counter() - started) * 1e3)
        keys = rows[0]["dense_keys"] or []
        recalls.append(_recall(keys, question.best, 10))
        fewest = min(fewest, len(keys) / min(DEPTH, table.sizes[question.place]))
    return Found(percentile(took, 0.5), percentile(took, 0.95), float(np.mean(recalls)), fewest)


async def curve(owner: asyncpg.Connection[Any], table: Filled, asked: list[Question]) -> list[Beam]:
    """The bare index of a table with one project, by the width of its beam."""
    found = []
    for ef in BEAMS:
        await owner.execute(f"SET hnsw.ef_search = {ef}")
        took, ten, fifty = [], [], []
        for question in asked:
            started = time.perf_counter()
            rows = await owner.fetch(
                f"SELECT chunk_key FROM retrieval.dense_{table.number} ORDER BY "  # noqa: S608
                f"embedding <=> $1::real[]::public.halfvec({len(question.vector)}) LIMIT {DEPTH}",
                question.vector.tolist(),
            )
            took.append((time.perf_counter() - started) * 1e3)
            keys = [row["chunk_key"] for row in rows]
            ten.append(_recall(keys, question.best, 10))
            fifty.append(_recall(keys, question.best, DEPTH))
        found.append(Beam(ef, percentile(took, 0.5), float(np.mean(ten)), float(np.mean(fifty))))
    return found


def _recall(keys: list[int], best: list[int], k: int) -> float:
    wanted = set(best[:k])
    return len(wanted & set(keys[:k])) / len(wanted)
