"""Embeddings of the Cohere API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from cohere import AsyncClientV2

from meshkit.providers import cohere
from meshkit.providers.attempt import within
from meshkit.providers.catalogue import Model, estimated_tokens
from meshkit.providers.gate import Gate
from services.embedding import api
from services.embedding.embedder import Embedded, Task
from services.embedding.spaces import SpaceName

TASKS: dict[Task, Literal["search_query", "search_document"]] = {
    Task.QUERY: "search_query",
    Task.DOCUMENT: "search_document",
}


class CohereEmbedder:
    """See `Embedder`."""

    worth_caching = True

    def __init__(self, name: SpaceName, model: Model, client: AsyncClientV2, gate: Gate) -> None:
        self.identity = api.identity(name, model, *TASKS.values())
        self.limits = api.limits(model)
        self.micro_usd_per_million_tokens = model.cost_micro_usd(input_tokens=1_000_000)
        self._model = model
        self._client = client
        self._gate = gate
        self._target = gate.target

    def estimate_micro_usd(self, texts: Sequence[str]) -> int:
        """See `Embedder`."""
        return api.estimate_micro_usd(self._model, texts)

    async def embed(self, texts: Sequence[str], task: Task) -> Embedded:
        """See `Embedder.embed`."""
        ends, _ = api.call_deadline()
        return await self._gate.retried(lambda: self._embed(texts, task), ends=ends)

    async def _embed(self, texts: Sequence[str], task: Task) -> Embedded:
        ends, seconds = api.call_deadline()
        tokens = estimated_tokens(texts)
        async with self._gate.attempt(cohere.classify, tokens=tokens, seconds=seconds) as call:
            async with within(ends, self._target):
                response = await self._client.embed(
                    model=self._model.model,
                    texts=list(texts),
                    input_type=TASKS[task],
                    output_dimension=self.identity.dimensions,
                    embedding_types=["float"],
                    request_options=cohere.options(seconds),
                )
            values = response.embeddings.float_ or []
            vectors = api.unit_vectors(values, len(texts), self.identity, self._target)
            units = response.meta.billed_units if response.meta else None
            counted = int(units.input_tokens or 0) if units else 0
            tokens = counted or tokens
            call.used(input_tokens=tokens)
        cost = self._model.cost_micro_usd(input_tokens=tokens)
        return Embedded(vectors, tokens, cost, estimated=not counted)

    async def close(self) -> None:
        """Closes the connections."""
        await cohere.close(self._client)
