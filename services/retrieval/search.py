"""Finding passages: embed and look up words in parallel, check, fuse, rerank, surround.

One round trip to Postgres a search. Each stage can be missing: what failed is
named in `degraded` and the rest is served. Only when neither index answers is
there an error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from meshkit import deadline
from meshkit.database.pool import Database
from meshkit.errors import (
    BudgetExhausted,
    Cancelled,
    DeadlineExceeded,
    Internal,
    LimitExceeded,
    MeshError,
    Unavailable,
)
from meshkit.logging import logger
from meshkit.telemetry import span
from services.retrieval import neighbours
from services.retrieval.candidates import (
    Candidates,
    Viewer,
    Wanted,
    fetch_candidates,
    fetch_missing,
)
from services.retrieval.fusion import Fused, Fusion, RankedList, fuse
from services.retrieval.lexical import LexicalHits, LexicalQuery
from services.retrieval.mixing import mix
from services.retrieval.outbox import LexicalProjection
from services.retrieval.passages import Chunk, Filter, Mode
from services.retrieval.settings import RetrievalSettings
from services.retrieval.spaces import SpaceTables, check_vectors
from services.retrieval.upstream import Embedder, ModelUsage, QueryVector, Reranker

log = logger(__name__)

DATE_OVERFETCH = 8
"""The lexical index knows no dates: with one in the filter it is asked for more."""
SURVIVABLE = (Unavailable, DeadlineExceeded, LimitExceeded, Internal, Cancelled)
"""What a search does without; other errors are the caller's to know."""


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for, and how."""

    text: str
    top_k: int = 10
    mode: Mode = Mode.HYBRID
    fusion: Fusion | None = None
    """None is the setting's choice."""
    rerank: bool = True
    restrict: Filter = field(default_factory=Filter)
    vector: QueryVector | None = None
    """The query's vector when the caller has it already."""
    neighbours: int = 0
    """Chunks to add before and after each hit."""
    context_tokens: int = 0
    """Tokens that all hits may have with their neighbours; 0 sets no limit."""
    bypass_cache: bool = False


@dataclass(frozen=True, slots=True)
class Signals:
    """Why a hit stands where it stands; rank 0 means not in that list."""

    dense_rank: int
    dense_similarity: float
    lexical_rank: int
    lexical_score: float
    fused_rank: int
    rerank_score: float | None


@dataclass(frozen=True, slots=True)
class Hit:
    """A found passage."""

    chunk: Chunk
    score: float
    signals: Signals
    context: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a search."""

    hits: Sequence[Hit]
    degraded: Sequence[str]
    timings_ms: dict[str, float]
    corpus_epoch: int
    space: str
    usage: Sequence[ModelUsage]


class _Run:
    """What one search learns on its way."""

    __slots__ = ("degraded", "timings", "usage")

    def __init__(self) -> None:
        self.degraded: list[str] = []
        self.timings: dict[str, float] = {}
        self.usage: list[ModelUsage] = []

    def took(self, stage: str, since: float) -> None:
        self.timings[stage] = (time.perf_counter() - since) * 1000

    def without(self, stage: str, error: MeshError) -> None:
        self.degraded.append(stage)
        log.warning("search without a stage", stage=stage, reason=error.reason)


class Searcher:
    """Answers searches; everything it needs is given to it."""

    def __init__(
        self,
        settings: RetrievalSettings,
        database: Database,
        spaces: SpaceTables,
        projection: LexicalProjection,
        embedder: Embedder,
        reranker: Reranker,
    ) -> None:
        self._settings = settings
        self._database = database
        self._spaces = spaces
        self._projection = projection
        self._embedder = embedder
        self._reranker = reranker

    async def search(self, viewer: Viewer, query: Query) -> Found:
        """The best passages the viewer may see.

        Raises:
            Unavailable: SEARCH_UNAVAILABLE when neither index answers.
            Precondition, InvalidInput: SPACE_MISMATCH, VECTOR_INVALID for a given vector.
            BudgetExhausted: when the query may not be embedded.
        """
        started = time.perf_counter()
        run = _Run()
        depth = max(self._settings.candidates, query.top_k)
        vector, lexical = await self._look_up(viewer, query, depth, run)
        candidates = await self._candidates(viewer, query, depth, vector, lexical, run)
        fusing = time.perf_counter()
        lexical = _visible(lexical, candidates)
        fused = self._fuse(query, candidates, lexical)
        run.took("fuse", fusing)
        best = [item.key for item in fused[: self._shown(query)]]
        await fetch_missing(self._database, viewer, candidates, best)
        order, opinions = await self._rerank(query, fused, candidates, run)
        # What was fetched later was checked later: it may have disappeared.
        order = [item for item in order if item.key in candidates.rows]
        hits = _hits(order[: query.top_k], candidates, lexical, fused, opinions)
        if query.neighbours and hits:
            hits = await self._surround(viewer, query, hits, run)
        run.took("total", started)
        return Found(
            hits=hits,
            degraded=run.degraded,
            timings_ms=run.timings,
            corpus_epoch=candidates.corpus_epoch,
            space=vector.space if vector else "",
            usage=run.usage,
        )

    async def _look_up(
        self, viewer: Viewer, query: Query, depth: int, run: _Run
    ) -> tuple[QueryVector | None, LexicalHits | None]:
        """The query's vector and the lexical candidates, in parallel; None for a failure."""
        if query.mode is Mode.LEXICAL:
            return None, await self._lexical(viewer, query, depth, run)
        if query.mode is Mode.DENSE:
            return await self._vector(query, run), None
        embedding = asyncio.create_task(self._vector(query, run))
        try:
            lexical = await self._lexical(viewer, query, depth, run)
            return await embedding, lexical
        finally:
            # Only a caller that went away, or an error here, finds it running.
            embedding.cancel()

    async def _vector(self, query: Query, run: _Run) -> QueryVector | None:
        if query.vector is not None:
            check_vectors(query.vector.vector[np.newaxis], query.vector.space)
            return query.vector
        started = time.perf_counter()
        try:
            found = await self._embedder.embed_query(
                query.text,
                seconds=_share(self._settings.embed_seconds, 0.5),
                bypass_cache=query.bypass_cache,
            )
        except BudgetExhausted:
            raise
        except SURVIVABLE as error:
            run.without("dense", error)
            return None
        finally:
            run.took("embed", started)
        if found.usage is not None:
            run.usage.append(found.usage)
        return found

    async def _lexical(
        self, viewer: Viewer, query: Query, depth: int, run: _Run
    ) -> LexicalHits | None:
        started = time.perf_counter()
        restrict = query.restrict
        wanted = LexicalQuery(
            text=query.text,
            project_id=viewer.project_id,
            principals=viewer.principals,
            limit=depth * DATE_OVERFETCH if restrict.by_date else depth,
            labels=restrict.labels,
            document_ids=restrict.document_ids,
        )
        try:
            with span("retrieval.lexical"):
                return await self._projection.index.search(wanted)
        except Exception:
            # Whatever is wrong with this index, the other one can still answer.
            run.degraded.append("lexical")
            log.exception("lexical search failed")
            return None
        finally:
            run.took("lexical", started)

    async def _candidates(
        self,
        viewer: Viewer,
        query: Query,
        depth: int,
        vector: QueryVector | None,
        lexical: LexicalHits | None,
        run: _Run,
    ) -> Candidates:
        if vector is None and lexical is None:
            raise _unavailable()
        wanted = Wanted(
            depth=depth,
            texts=self._shown(query),
            restrict=query.restrict,
            dense_weight=self._settings.dense_weight,
            lexical_weight=self._settings.lexical_weight,
        )
        started = time.perf_counter()
        try:
            with span("retrieval.dense"):
                number = await self._spaces.find(vector.space) if vector else None
                found = await fetch_candidates(
                    self._database,
                    viewer,
                    wanted,
                    space_number=number,
                    vector=vector.vector if vector else None,
                    lexical_keys=lexical.keys if lexical else [],
                )
        except Unavailable as error:
            raise _unavailable() from error
        finally:
            run.took("dense", started)
        if vector is not None and number is None and found.lexical_keys:
            # Words find passages and the space holds none: it was never filled.
            run.degraded.append("dense")
        return found

    def _shown(self, query: Query) -> int:
        """How many fused hits are read: to be shown or to be reranked."""
        return max(query.top_k, self._settings.rerank_candidates if query.rerank else 0)

    def _fuse(
        self, query: Query, candidates: Candidates, lexical: LexicalHits | None
    ) -> list[Fused]:
        settings = self._settings
        dense = RankedList(candidates.dense_keys, candidates.similarities)
        words = RankedList(lexical.keys, lexical.scores) if lexical else RankedList([], [])
        if dense.keys and words.keys:
            dense = replace(dense, weight=settings.dense_weight)
            words = replace(words, weight=settings.lexical_weight)
        return fuse([dense, words], query.fusion or settings.fusion)

    async def _rerank(
        self, query: Query, fused: list[Fused], candidates: Candidates, run: _Run
    ) -> tuple[list[Fused], dict[int, float]]:
        limit = self._settings.rerank_candidates
        if not query.rerank or not limit or not fused:
            return fused, {}
        started = time.perf_counter()
        passages = [
            (item.key, candidates.rows[item.key]["body"])
            for item in fused[:limit]
            if item.key in candidates.rows
        ]
        seconds = _share(self._settings.rerank_seconds, self._settings.rerank_share)
        try:
            opinion = await self._reranker.score(query.text, passages, seconds=seconds)
        except SURVIVABLE as error:
            run.without("rerank", error)
            return fused, {}
        finally:
            run.took("rerank", started)
        if opinion.usage is not None:
            run.usage.append(opinion.usage)
        if not opinion.complete:
            run.degraded.append("rerank")
        return mix(fused, opinion.probabilities, self._settings.rerank_weight), dict(
            opinion.probabilities
        )

    async def _surround(
        self, viewer: Viewer, query: Query, hits: Sequence[Hit], run: _Run
    ) -> list[Hit]:
        started = time.perf_counter()
        texts = await neighbours.contexts(
            self._database,
            viewer.project_id,
            [hit.chunk for hit in hits],
            query.neighbours,
            query.context_tokens,
        )
        run.took("neighbours", started)
        return [
            Hit(hit.chunk, hit.score, hit.signals, text)
            for hit, text in zip(hits, texts, strict=True)
        ]


def _unavailable() -> Unavailable:
    return Unavailable(
        "SEARCH_UNAVAILABLE", "Neither index answers now; try again.", retry_after=1.0
    )


def _share(longest: float, share: float) -> float:
    """Seconds a stage may take: its setting, within its share of what is left."""
    left = deadline.remaining()
    return longest if left is None else min(longest, left * share)


def _visible(lexical: LexicalHits | None, candidates: Candidates) -> LexicalHits | None:
    """The lexical list without what Postgres did not let pass."""
    if lexical is None or len(lexical.keys) == len(candidates.lexical_keys):
        return lexical
    scores = dict(zip(lexical.keys, lexical.scores, strict=True))
    keys = list(candidates.lexical_keys)
    return LexicalHits(keys, [scores[key] for key in keys])


def _hits(
    order: Sequence[Fused],
    candidates: Candidates,
    lexical: LexicalHits | None,
    fused: Sequence[Fused],
    opinions: dict[int, float],
) -> list[Hit]:
    dense_ranks = {key: rank for rank, key in enumerate(candidates.dense_keys)}
    lexical_ranks = {key: rank for rank, key in enumerate(lexical.keys)} if lexical else {}
    fused_ranks = {item.key: rank for rank, item in enumerate(fused, start=1)}
    hits = []
    for item in order:
        dense, word = dense_ranks.get(item.key), lexical_ranks.get(item.key)
        signals = Signals(
            dense_rank=0 if dense is None else dense + 1,
            dense_similarity=0.0 if dense is None else candidates.similarities[dense],
            lexical_rank=0 if word is None else word + 1,
            lexical_score=0.0 if word is None or lexical is None else lexical.scores[word],
            fused_rank=fused_ranks[item.key],
            rerank_score=opinions.get(item.key),
        )
        hits.append(Hit(candidates.chunk(item.key), item.score, signals))
    return hits
