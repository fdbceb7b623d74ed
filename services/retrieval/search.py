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

from meshkit import language
from meshkit.database.pool import Database
from meshkit.errors import BudgetExhausted, Precondition, Unavailable
from meshkit.language import Language
from meshkit.logging import logger
from meshkit.telemetry import span
from services.retrieval import measures, neighbours, reading
from services.retrieval.candidates import (
    Candidates,
    Viewer,
    Wanted,
    fetch_candidates,
    fetch_missing,
)
from services.retrieval.fusion import Fused, Fusion, RankedList, fuse_to_depth
from services.retrieval.hits import Hit, hits_of, visible
from services.retrieval.lexical import LexicalHits, LexicalQuery
from services.retrieval.outbox import LexicalProjection
from services.retrieval.passages import Chunk, Filter, Mode
from services.retrieval.reranking import Reranked, Reranking
from services.retrieval.settings import RetrievalSettings
from services.retrieval.spaces import Place, SpaceTables, check_vectors
from services.retrieval.stages import SURVIVABLE, TOTAL, Run, share_of_deadline
from services.retrieval.trust import certainty, dense_trust
from services.retrieval.upstream import Embedder, ModelUsage, QueryVector, Reranker

log = logger(__name__)

NOTHING = RankedList([], [])
LEXICAL_SHARE = 0.5
"""Share of the caller's remaining time that the lexical index may use."""
DATE_OVERFETCH = 8
"""The lexical index knows no dates: with one in the filter it is asked for more."""


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for, and how."""

    text: str
    top_k: int = 10
    mode: Mode = Mode.HYBRID
    fusion: Fusion | None = None
    """None is the setting's choice, as for the weights."""
    dense_weight: float | None = None
    lexical_weight: float | None = None
    rerank: bool = True
    restrict: Filter = field(default_factory=Filter)
    vector: QueryVector | None = None
    """The query's vector when the caller has it already."""
    neighbours: int = 0
    """Chunks to add before and after each hit."""
    neighbour_chunks: bool = False
    """Whether they are wanted as chunks of their own."""
    context_tokens: int = 0
    """Tokens that all hits may have with their neighbours; 0 sets no limit."""
    bypass_cache: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a search."""

    hits: Sequence[Hit]
    degraded: Sequence[str]
    timings_ms: dict[str, float]
    started_ms: dict[str, float]
    """When each stage began, from the beginning of the search."""
    corpus_epoch: int
    space: str
    usage: Sequence[ModelUsage]
    neighbours: Sequence[Chunk] | None = None
    """Where they were wanted as chunks of their own and could be read."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is decided about a search by its words alone."""

    language: Language
    depth: int
    """Candidates asked of each index."""
    texts: int
    """How many fused hits are read: to be shown or to be reranked."""
    fusion: Fusion


@dataclass(frozen=True, slots=True)
class _Weights:
    """What each list counts in the fusion."""

    dense: float
    lexical: float
    by_lead: bool
    """Whether a list counts more when its first hit leads by far."""


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
        self._reranking = Reranking(settings, reranker)

    async def search(self, viewer: Viewer, query: Query) -> Found:
        """The best passages the viewer may see.

        Raises:
            Unavailable: SEARCH_UNAVAILABLE when neither index answers.
            Precondition, InvalidInput: SPACE_MISMATCH, VECTOR_INVALID for a given vector.
            BudgetExhausted: when the query may not be embedded.
        """
        run = Run()
        started = time.perf_counter()
        vector, lexical, plan = await self._look_up(viewer, query, run)
        weights = self._weights(plan, query, vector)
        candidates = await self._candidates(viewer, query, plan, weights, vector, lexical, run)
        fusing = time.perf_counter()
        lexical = visible(lexical, candidates)
        fused = self._fuse(plan, weights, candidates, lexical)
        run.took("fuse", fusing)
        best = [item.key for item in fused[: plan.texts]]
        await fetch_missing(self._database, viewer, candidates, best)
        reranked = Reranked(fused, {})
        if query.rerank:
            reranked = await self._reranking.reorder(
                query.text, plan.language, fused, candidates, run
            )
        # What was fetched later was checked later: it may have disappeared.
        order = [item for item in reranked.order if item.key in candidates.rows]
        hits = hits_of(order[: query.top_k], candidates, lexical, fused, reranked.opinions)
        beside: Sequence[Chunk] | None = None
        if query.neighbours and query.neighbour_chunks:
            beside = await self._beside(viewer, query, hits, run)
        elif query.neighbours and hits:
            hits = await self._surround(viewer, query, hits, run)
        run.took(TOTAL, started)
        measures.searched(run, query.mode, candidates, lexical, reranked.opinions, len(hits))
        return Found(
            hits=hits,
            degraded=run.degraded,
            timings_ms=run.timings,
            started_ms=run.started,
            corpus_epoch=candidates.corpus_epoch,
            space=vector.space if vector else "",
            usage=run.usage,
            neighbours=beside,
        )

    def _depth(self, query: Query) -> int:
        return max(self._settings.candidates, query.top_k)

    def _plan(self, query: Query) -> _Plan:
        spoken = language.detect(query.text)
        read = self._reranking.read(spoken) if query.rerank else 0
        return _Plan(
            language=spoken,
            depth=self._depth(query),
            texts=max(query.top_k, read),
            fusion=query.fusion or self._settings.fusion,
        )

    def _weights(self, plan: _Plan, query: Query, vector: QueryVector | None) -> _Weights:
        """What each list counts for this query, before their scores are known."""
        dense, lexical = query.dense_weight, query.lexical_weight
        trust = dense_trust(vector.space, plan.language, plan.fusion) if vector else 1.0
        return _Weights(
            dense=trust * (self._settings.dense_weight if dense is None else dense),
            lexical=self._settings.lexical_weight if lexical is None else lexical,
            by_lead=plan.fusion is Fusion.RRF and trust == 1.0,
        )

    async def _look_up(
        self, viewer: Viewer, query: Query, run: Run
    ) -> tuple[QueryVector | None, LexicalHits | None, _Plan]:
        """The query's vector and the lexical candidates, None for a failure; and what follows.

        The query is embedded elsewhere meanwhile, so nothing here comes before that.
        """
        embedding = asyncio.create_task(self._vector(query, run))
        try:
            lexical = await self._lexical(viewer, query, run)
            plan = self._plan(query)
            return await embedding, lexical, plan
        finally:
            # Only a caller that went away, or an error here, finds it running.
            embedding.cancel()

    async def _vector(self, query: Query, run: Run) -> QueryVector | None:
        if query.mode is Mode.LEXICAL:
            return None
        if query.vector is not None:
            check_vectors(query.vector.vector[np.newaxis], query.vector.space)
            return query.vector
        started = time.perf_counter()
        try:
            found = await self._embedder.embed_query(
                query.text,
                seconds=share_of_deadline(self._settings.embed_seconds, 0.5),
                bypass_cache=query.bypass_cache,
            )
        except BudgetExhausted:
            raise
        except SURVIVABLE as error:
            run.without("dense", error)
            return None
        finally:
            run.took("embed", started)
        run.spent(found.usage)
        return found

    async def _lexical(self, viewer: Viewer, query: Query, run: Run) -> LexicalHits | None:
        if query.mode is Mode.DENSE:
            return None
        started = time.perf_counter()
        restrict = query.restrict
        depth = self._depth(query)
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
                async with asyncio.timeout(
                    share_of_deadline(self._settings.lexical_seconds, LEXICAL_SHARE)
                ):
                    return await self._projection.index.search(wanted)
        except (Unavailable, TimeoutError) as error:
            run.degraded.append("lexical")
            log.warning("lexical search failed", reason=getattr(error, "reason", "too slow"))
            return None
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
        plan: _Plan,
        weights: _Weights,
        vector: QueryVector | None,
        lexical: LexicalHits | None,
        run: Run,
    ) -> Candidates:
        if vector is None and lexical is None:
            raise _unavailable()
        wanted = Wanted(
            depth=plan.depth,
            # Postgres fuses by rank alone to choose the texts it sends.
            texts=plan.texts + plan.texts // 2,
            restrict=query.restrict,
            dense_weight=weights.dense,
            lexical_weight=weights.lexical,
        )
        started = time.perf_counter()
        try:
            with span("retrieval.dense"):
                place = await self._place(viewer, query, vector) if vector else None
                found = await fetch_candidates(
                    self._database,
                    viewer,
                    wanted,
                    space_number=place.number if place else None,
                    vector=vector.vector if vector else None,
                    lexical_keys=lexical.keys if lexical else [],
                )
        except Unavailable as error:
            raise _unavailable() from error
        finally:
            run.took("dense", started)
        if vector is not None and place is None and found.lexical_keys:
            # Words find passages and the space cannot: it is not filled.
            run.degraded.append("dense")
        elif place is not None and place.standby:
            run.degraded.append("dense_standby")
        return found

    async def _place(self, viewer: Viewer, query: Query, vector: QueryVector) -> Place | None:
        """Where the query's vector is compared; nowhere in a space that another model filled."""
        try:
            return await self._spaces.place(vector.space, vector.version, viewer.project_id)
        except Precondition as error:
            if query.vector is not None:
                raise
            # The mesh's own fault, not the caller's: words still answer.
            log.error("a query's vector is of another model", detail=error.detail)
            return None

    def _fuse(
        self, plan: _Plan, weights: _Weights, candidates: Candidates, lexical: LexicalHits | None
    ) -> list[Fused]:
        dense = RankedList(candidates.dense_keys, candidates.similarities)
        # What has none of the words would score 0 by BM25.
        words = RankedList(lexical.keys, lexical.scores, floor=0.0) if lexical else NOTHING
        if dense.keys and words.keys:
            lead = certainty if weights.by_lead else lambda _: 1.0
            dense = replace(dense, weight=weights.dense * lead(dense.scores))
            words = replace(words, weight=weights.lexical * lead(words.scores))
        return fuse_to_depth([dense, words], plan.fusion, self._settings.candidates)

    async def _beside(
        self, viewer: Viewer, query: Query, hits: Sequence[Hit], run: Run
    ) -> Sequence[Chunk] | None:
        started = time.perf_counter()
        names = neighbours.names([hit.chunk for hit in hits], query.neighbours)
        try:
            found = (
                await reading.by_id(self._database, viewer, names) if names else reading.Page([])
            )
        except Unavailable as error:
            # The hits are whole without them, and who wants them may still ask for them.
            log.warning("hits without their neighbours", reason=error.reason)
            return None
        run.took("neighbours", started)
        return found.chunks

    async def _surround(
        self, viewer: Viewer, query: Query, hits: Sequence[Hit], run: Run
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
