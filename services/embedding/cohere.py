"""Embeddings of the Cohere API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from cohere import AsyncClientV2

from meshkit.providers import cohere
from meshkit.providers.attempt import attempt, within
from meshkit.providers.catalogue import Model, Operation, estimated_tokens
from meshkit.providers.errors import Target
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

    def __init__(self, name: SpaceName, model: Model, client: AsyncClientV2) -> None:
        self.identity = api.identity(name, model, *TASKS.values())
        self.limits = api.limits(model)
        self._model = model
        self._client = client
        self._target = Target(model.provider, model.model, Operation.EMBED)

    def estimate_micro_usd(self, texts: Sequence[str]) -> int:
        """See `Embedder`."""
        return api.estimate_micro_usd(self._model, texts)

    async def embed(self, texts: Sequence[str], task: Task) -> Embedded:
        """See `Embedder.embed`."""
        ends, seconds = api.call_deadline()
        async with attempt(self._target, cohere.classify):
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
        tokens = counted or estimated_tokens(texts)
        cost = self._model.cost_micro_usd(input_tokens=tokens)
        return Embedded(vectors, tokens, cost, estimated=not counted)

    async def close(self) -> None:
        """Closes the connections."""
        await cohere.close(self._client)
