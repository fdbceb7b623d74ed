"""Embeddings of the Cohere API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from cohere import AsyncClientV2

from meshkit.providers import cohere
from meshkit.providers.catalogue import Model
from meshkit.providers.gate import Gate
from services.embedding.api import Answered, ApiEmbedder
from services.embedding.embedder import Task
from services.embedding.spaces import SpaceName

TASKS: dict[Task, Literal["search_query", "search_document"]] = {
    Task.QUERY: "search_query",
    Task.DOCUMENT: "search_document",
}


class CohereEmbedder(ApiEmbedder):
    """See `Embedder`."""

    def __init__(self, name: SpaceName, model: Model, client: AsyncClientV2, gate: Gate) -> None:
        super().__init__(name, model, TASKS, cohere.classify, gate)
        self._client = client

    async def _call(self, texts: Sequence[str], task: Task, seconds: float) -> Answered:
        response = await self._client.embed(
            model=self._model.model,
            texts=list(texts),
            input_type=TASKS[task],
            output_dimension=self.identity.dimensions,
            embedding_types=["float"],
            request_options=cohere.options(seconds),
        )
        units = response.meta.billed_units if response.meta else None
        counted = int(units.input_tokens or 0) if units else 0
        return Answered(response.embeddings.float_ or [], counted)

    async def close(self) -> None:
        """Closes the connections."""
        await cohere.close(self._client)
