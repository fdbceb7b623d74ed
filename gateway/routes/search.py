"""POST /v1/search: passages, best first. The hot path; it does nothing twice."""

from __future__ import annotations

from typing import NotRequired

from fastapi import APIRouter, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from citemesh.retrieval import v1 as retrieval_v1
from gateway import problem
from gateway.admission import SEARCH
from gateway.bodies import Filter, SearchBody
from gateway.direct import DirectRoute
from gateway.endpoint import GuardedRoute, requires
from gateway.json_response import JsonResponse
from gateway.mesh import mesh_of
from meshkit.telemetry import current_trace_id

router = APIRouter(
    prefix="/v1/search",
    tags=["search"],
    route_class=GuardedRoute,
    responses=problem.RESPONSES,
)

_MODES = {
    "hybrid": retrieval_v1.SEARCH_MODE_HYBRID,
    "dense": retrieval_v1.SEARCH_MODE_DENSE,
    "lexical": retrieval_v1.SEARCH_MODE_LEXICAL,
}
_FUSIONS = {
    None: retrieval_v1.FUSION_METHOD_UNSPECIFIED,
    "rrf": retrieval_v1.FUSION_METHOD_RRF,
    "min_max": retrieval_v1.FUSION_METHOD_MIN_MAX,
}


class Signals(TypedDict):
    """Why a hit stands where it stands; a rank of 0 means not found by that list."""

    dense_rank: int
    dense_similarity: float
    lexical_rank: int
    lexical_score: float
    fused_rank: int
    rerank_score: float | None


class Hit(TypedDict):
    """A passage that was found."""

    chunk_id: str
    document_id: str
    title: str
    page: int
    page_end: int
    heading: str
    section: str
    """Headings above the passage, outermost first, joined by ` > `."""
    text: str
    score: float
    signals: Signals
    context: NotRequired[str]
    """The passage with its neighbours, when they were asked for."""


class SearchResult(TypedDict):
    """Hits, best first, and what was missing."""

    hits: list[Hit]
    degraded: list[str]
    timings_ms: dict[str, float]
    started_ms: dict[str, float]
    corpus_epoch: int
    trace_id: str


def filter_message(given: Filter) -> retrieval_v1.SearchFilter | None:
    """The filter for the services; None when it restricts nothing."""
    after, before = given.activated_after, given.activated_before
    if not (given.labels or given.document_ids or after or before):
        return None
    message = retrieval_v1.SearchFilter(labels=given.labels, document_ids=given.document_ids)
    if after is not None:
        message.activated_after.FromDatetime(after)
    if before is not None:
        message.activated_before.FromDatetime(before)
    return message


@router.post("", summary="Find passages", responses={200: {"model": SearchResult}})
@requires("read", seconds="search_seconds", kind=SEARCH)
async def search(request: Request, body: SearchBody) -> Response:
    """Passages for a query, by meaning and by words, best first."""
    mesh = mesh_of(request)
    found = await mesh.retrieval.Search(
        retrieval_v1.SearchRequest(
            query=body.query,
            top_k=body.top_k,
            mode=_MODES[body.mode],
            fusion=_FUSIONS[body.fusion],
            rerank=retrieval_v1.RERANK_MODE_ON if body.rerank else retrieval_v1.RERANK_MODE_OFF,
            filter=filter_message(body.filter),
            neighbours=body.neighbours,
            context_tokens=body.context_tokens,
            bypass_cache=body.bypass_cache,
        ),
        timeout=mesh.settings.search_seconds,
    )
    result: SearchResult = {
        "hits": [_hit(hit) for hit in found.hits],
        "degraded": list(found.degraded),
        "timings_ms": dict(found.timings_ms),
        "started_ms": dict(found.started_ms),
        "corpus_epoch": found.corpus_epoch,
        "trace_id": current_trace_id(),
    }
    return JsonResponse(result)


DIRECT = DirectRoute("/v1/search", search, SearchBody)


def _hit(found: retrieval_v1.Hit) -> Hit:
    chunk, signals = found.chunk, found.signals
    location = chunk.location
    hit: Hit = {
        "chunk_id": chunk.chunk_id,
        "document_id": chunk.document_id,
        "title": chunk.title,
        "page": location.page,
        "page_end": location.page_end,
        "heading": " > ".join(location.headings),
        "section": location.section,
        "text": chunk.text,
        "score": found.score,
        "signals": {
            "dense_rank": signals.dense_rank,
            "dense_similarity": signals.dense_similarity,
            "lexical_rank": signals.lexical_rank,
            "lexical_score": signals.lexical_score,
            "fused_rank": signals.fused_rank,
            "rerank_score": signals.rerank_score if signals.HasField("rerank_score") else None,
        },
    }
    if found.context:
        hit["context"] = found.context
    return hit
