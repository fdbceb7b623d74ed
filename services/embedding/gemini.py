"""Embeddings of the Gemini API."""

from __future__ import annotations

from collections.abc import Sequence

from google.genai import types

from meshkit.providers import gemini
from meshkit.providers.catalogue import Model
from meshkit.providers.gate import Gate
from services.embedding.api import Answered, ApiEmbedder
from services.embedding.embedder import Task
from services.embedding.spaces import SpaceName

TASKS = {Task.QUERY: "RETRIEVAL_QUERY", Task.DOCUMENT: "RETRIEVAL_DOCUMENT"}


class GeminiEmbedder(ApiEmbedder):
    """See `Embedder`. Tokens are estimated: the API does not count them."""

    def __init__(self, name: SpaceName, model: Model, client: gemini.Client, gate: Gate) -> None:
        super().__init__(name, model, TASKS, gemini.classify, gate)
        self._client = client

    async def _call(self, texts: Sequence[str], task: Task, seconds: float) -> Answered:
        # Named: with Pillow installed the SDK's types take no list of just str.
        contents: list[types.ContentUnionDict] = [*texts]
        response = await self._client.models.embed_content(
            model=self._model.model,
            contents=contents,
            config=types.EmbedContentConfig(
                task_type=TASKS[task],
                output_dimensionality=self.identity.dimensions,
                http_options=gemini.options(seconds),
            ),
        )
        return Answered([embedding.values or [] for embedding in response.embeddings or []])

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()
