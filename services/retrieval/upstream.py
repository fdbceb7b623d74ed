"""The services retrieval calls, as it sees them: a query's vector, a second opinion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from citemesh.embedding import v1 as embedding_v1
from citemesh.rerank import v1 as rerank_v1
from citemesh.usage import v1 as usage_v1
from services.retrieval.passages import Vectors


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """Tokens and money that one model consumed."""

    stage: str
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    cost_micro_usd: int
    estimated: bool


@dataclass(frozen=True, slots=True)
class QueryVector:
    """A query in an embedding space."""

    vector: Vectors
    """Shape (dimensions,)."""
    space: str
    usage: ModelUsage | None = None
    version: str = ""
    """Fingerprint of the space; empty when it is not known."""


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """What the cross-encoder thinks of passages."""

    probabilities: dict[int, float]
    """By passage key, 0 to 1."""
    complete: bool
    """False when time ended before every passage was read."""
    languages: Sequence[str] = ()
    """Languages the model was trained for; empty means any."""
    known_languages: Sequence[str] = ()
    """Those of any model that may be asked; empty means any."""
    patience_seconds: float = 0.0
    """What the reranker asks to be left; 0 when it does not say."""
    usage: ModelUsage | None = None


class Embedder(Protocol):
    """Gives a query its vector."""

    async def embed_query(self, text: str, *, seconds: float, bypass_cache: bool) -> QueryVector:
        """The query's vector in the active space; raises MeshError."""
        ...


class Reranker(Protocol):
    """Reads passages against a query."""

    async def score(
        self, query: str, passages: Sequence[tuple[int, str]], *, seconds: float
    ) -> SecondOpinion:
        """Probabilities by passage key; raises MeshError."""
        ...


class EmbeddingService:
    """The query lane of the embedding service."""

    def __init__(self, stub: embedding_v1.EmbeddingServiceAsyncStub) -> None:
        self._stub = stub

    async def embed_query(self, text: str, *, seconds: float, bypass_cache: bool) -> QueryVector:
        """See `Embedder`."""
        request = embedding_v1.EmbedRequest(
            texts=[text],
            task=embedding_v1.EMBED_TASK_QUERY,
            bypass_cache=bypass_cache,
        )
        response = await self._stub.Embed(request, timeout=seconds)
        return QueryVector(
            vector=np.array(response.vectors[0].values, dtype=np.float32),
            space=response.space,
            usage=_usage(response.usage),
            version=response.space_version,
        )


class RerankService:
    """The rerank service."""

    def __init__(self, stub: rerank_v1.RerankServiceAsyncStub) -> None:
        self._stub = stub

    async def score(
        self, query: str, passages: Sequence[tuple[int, str]], *, seconds: float
    ) -> SecondOpinion:
        """See `Reranker`."""
        request = rerank_v1.RerankRequest(
            query=query,
            passages=[rerank_v1.Passage(id=str(key), text=text) for key, text in passages],
        )
        response = await self._stub.Rerank(request, timeout=seconds)
        return SecondOpinion(
            probabilities={int(result.id): result.score for result in response.results},
            complete=response.complete,
            languages=tuple(response.languages),
            known_languages=tuple(response.known_languages),
            patience_seconds=response.patience_seconds,
            usage=_usage(response.usage),
        )


def _usage(message: usage_v1.Usage) -> ModelUsage | None:
    if not message.stage:
        return None
    return ModelUsage(
        stage=message.stage,
        provider=message.provider,
        model=message.model,
        input_tokens=message.input_tokens,
        output_tokens=message.output_tokens,
        cost_micro_usd=message.cost_micro_usd,
        estimated=message.estimated,
    )
