"""Embeddings of the Gemini API."""

from __future__ import annotations

from collections.abc import Sequence

from google.genai import types

from meshkit.providers import gemini
from meshkit.providers.attempt import within
from meshkit.providers.catalogue import Model, estimated_tokens
from meshkit.providers.gate import Gate
from services.embedding import api
from services.embedding.embedder import Embedded, Task
from services.embedding.spaces import SpaceName

TASKS = {Task.QUERY: "RETRIEVAL_QUERY", Task.DOCUMENT: "RETRIEVAL_DOCUMENT"}


class GeminiEmbedder:
    """See `Embedder`. Tokens are estimated: the API does not count them."""

    worth_caching = True

    def __init__(self, name: SpaceName, model: Model, client: gemini.Client, gate: Gate) -> None:
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
        # Named: with Pillow installed the SDK's types take no list of just str.
        contents: list[types.ContentUnionDict] = [*texts]
        async with self._gate.attempt(gemini.classify, tokens=tokens, seconds=seconds) as call:
            async with within(ends, self._target):
                response = await self._client.models.embed_content(
                    model=self._model.model,
                    contents=contents,
                    config=types.EmbedContentConfig(
                        task_type=TASKS[task],
                        output_dimensionality=self.identity.dimensions,
                        http_options=gemini.options(seconds),
                    ),
                )
            values = [embedding.values or [] for embedding in response.embeddings or []]
            vectors = api.unit_vectors(values, len(texts), self.identity, self._target)
            call.used(input_tokens=tokens)
        cost = self._model.cost_micro_usd(input_tokens=tokens)
        return Embedded(vectors, tokens, cost, estimated=True)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()
