"""Calls that find passages: the question's vector, the search, chunks by id."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from citemesh.embedding import v1 as embedding_v1
from citemesh.retrieval import v1 as retrieval_v1
from citemesh.usage import v1 as usage_v1
from meshkit.errors import (
    Busy,
    DeadlineExceeded,
    Internal,
    LimitExceeded,
    MeshError,
    Unavailable,
)
from services.generation.answers import Found, SearchFilter, Step, Usage
from services.generation.passages import Chunk, Location, Passage

_LOST = (Unavailable, DeadlineExceeded, LimitExceeded, Internal)


@dataclass(frozen=True, slots=True)
class QueryVector:
    """A question's vector and the space it belongs to."""

    values: tuple[float, ...]
    space: str
    usage: tuple[Usage, ...]
    space_version: str = ""
    """Fingerprint of the space."""


class FindingCalls:
    """What generation asks of embedding (query lane) and retrieval."""

    def __init__(
        self,
        embedding: embedding_v1.EmbeddingServiceAsyncStub,
        retrieval: retrieval_v1.RetrievalServiceAsyncStub,
    ) -> None:
        self._embedding = embedding
        self._retrieval = retrieval

    async def embed(self, text: str, *, bypass_cache: bool, seconds: float) -> QueryVector:
        """The vector of a question in the active space.

        Raises:
            MeshError: when there is none.
        """
        response = await self._embedding.Embed(
            embedding_v1.EmbedRequest(
                texts=[text], task=embedding_v1.EMBED_TASK_QUERY, bypass_cache=bypass_cache
            ),
            timeout=seconds,
        )
        return QueryVector(
            tuple(response.vectors[0].values),
            response.space,
            _usages([response.usage]),
            response.space_version,
        )

    async def corpus_epoch(self, *, seconds: float) -> int:
        """The epoch of the project's corpus.

        Raises:
            MeshError: when retrieval cannot tell.
        """
        response = await self._retrieval.GetCorpusState(
            retrieval_v1.GetCorpusStateRequest(), timeout=seconds
        )
        return response.corpus_epoch

    async def search(
        self,
        text: str,
        vector: QueryVector | None,
        wanted: SearchFilter,
        *,
        top_k: int,
        bypass_cache: bool,
        seconds: float,
        rerank: bool = True,
        neighbours: bool = False,
    ) -> Found:
        """Passages for a question; by words only without a vector.

        With `neighbours` the chunks before and after each hit come along.

        Raises:
            Unavailable: SEARCH_UNAVAILABLE.
        """
        mode = retrieval_v1.SEARCH_MODE_HYBRID if vector else retrieval_v1.SEARCH_MODE_LEXICAL
        request = retrieval_v1.SearchRequest(
            query=text,
            top_k=top_k,
            mode=mode,
            filter=_filter(wanted),
            vector=vector.values if vector else (),
            space=vector.space if vector else "",
            space_version=vector.space_version if vector else "",
            bypass_cache=bypass_cache,
            rerank=retrieval_v1.RERANK_MODE_ON if rerank else retrieval_v1.RERANK_MODE_OFF,
            neighbours=1 if neighbours else 0,
            neighbour_chunks=neighbours,
        )
        began = time.perf_counter()
        try:
            response = await self._retrieval.Search(request, timeout=seconds)
        except Busy:
            # Nothing is lost: there is more to do than can be done in time, which is its reason.
            raise
        except _LOST as error:
            raise _search_unavailable(error) from error
        missing = [*response.degraded, *(() if vector else ("dense",))]
        clean = [hit for hit in response.hits if not hit.chunk.flags]
        return Found(
            tuple(
                _passage(str(place), hit, response.space)
                for place, hit in enumerate(clean, start=1)
            ),
            tuple(dict.fromkeys(missing)),
            response.corpus_epoch,
            _usages(response.usage),
            tuple(
                Step(stage, began + began_ms / 1000, response.timings_ms[stage])
                for stage, began_ms in response.started_ms.items()
                if stage != "total"
            ),
            (
                {stored.chunk_id: _chunk(stored) for stored in response.neighbours.chunks}
                if response.HasField("neighbours")
                else None
            ),
        )

    async def chunks(self, ids: Sequence[str], *, seconds: float) -> dict[str, Chunk]:
        """Chunks by id; those not live or not permitted are left out.

        Raises:
            MeshError: when retrieval cannot be reached.
        """
        response = await self._retrieval.ReadChunks(
            retrieval_v1.ReadChunksRequest(chunk_ids=ids), timeout=seconds
        )
        return {chunk.chunk_id: _chunk(chunk) for chunk in response.chunks}


def _search_unavailable(error: MeshError) -> Unavailable:
    return Unavailable(
        "SEARCH_UNAVAILABLE",
        "The documents cannot be searched now; try again shortly.",
        retry_after=error.retry_after or 1.0,
    )


def _filter(wanted: SearchFilter) -> retrieval_v1.SearchFilter:
    message = retrieval_v1.SearchFilter(
        labels=dict(wanted.labels), document_ids=wanted.document_ids
    )
    for moment, field in (
        (wanted.activated_after, message.activated_after),
        (wanted.activated_before, message.activated_before),
    ):
        if isinstance(moment, datetime):
            field.FromDatetime(moment)
    return message


def _passage(marker: str, hit: retrieval_v1.Hit, space: str) -> Passage:
    signals = hit.signals
    chunk = _chunk(hit.chunk)
    return Passage(
        marker=marker,
        chunk=chunk,
        score=hit.score,
        dense_rank=signals.dense_rank,
        dense_similarity=signals.dense_similarity,
        lexical_rank=signals.lexical_rank,
        rerank_score=signals.rerank_score if signals.HasField("rerank_score") else None,
        space=space,
    )


def _chunk(stored: retrieval_v1.StoredChunk) -> Chunk:
    where = stored.location
    return Chunk(
        stored.chunk_id,
        stored.document_id,
        stored.version,
        stored.ordinal,
        stored.title,
        stored.text,
        Location(
            where.page, where.page_end, tuple(where.headings), where.start, where.end, where.section
        ),
        tuple(stored.flags),
    )


def _usages(messages: Iterable[usage_v1.Usage]) -> tuple[Usage, ...]:
    """Usages that name a model; an answer from a cache used none."""
    return tuple(usage(message) for message in messages if message.model)


def usage(message: usage_v1.Usage) -> Usage:
    """What one model consumed."""
    return Usage(
        message.stage,
        message.provider,
        message.model,
        message.input_tokens,
        message.output_tokens,
        message.cost_micro_usd,
        message.estimated,
    )
