"""Scores of the Cohere API."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from cohere import AsyncClientV2

from meshkit import deadline
from meshkit.providers import cohere
from meshkit.providers.attempt import until as loop_time
from meshkit.providers.attempt import within
from meshkit.providers.catalogue import (
    DOCUMENTS_PER_SEARCH,
    Model,
    estimated_tokens,
)
from meshkit.providers.errors import MalformedResponse
from meshkit.providers.gate import Gate
from services.rerank.ranking import Scored
from services.rerank.reranker import Reading

LONGEST_CALL_SECONDS = 30.0
WHOLE_TOKENS, PART_TOKENS = 4096, 512
"""Tokens of a passage that are read; it chooses no window of its own."""
SURE = 1e-7
"""Scores nearer to 0 or 1 are taken for this near: their log-odds would be infinite."""


class CohereReranker:
    """See `Reranker`. All passages go in one call, so that none or all are read in time."""

    def __init__(self, model: Model, client: AsyncClientV2, gate: Gate) -> None:
        self.provider = model.provider
        self.model = model.model
        self.languages = model.languages
        self.patience_seconds = model.patience_seconds
        self._priced = model
        self._client = client
        self._gate = gate
        self._target = gate.target

    def estimate_micro_usd(self, query: str, passages: Sequence[str]) -> int:
        """See `Reranker`."""
        return self._cost(_tokens(query, passages), _searches(passages))

    def _cost(self, tokens: int, searches: float) -> int:
        return self._priced.cost_micro_usd(input_tokens=tokens, searches=searches)

    async def score(
        self, query: str, passages: Sequence[str], *, whole: bool, until: float | None
    ) -> Reading:
        """See `Reranker.score`."""
        ends = loop_time(_seconds(until))
        return await self._gate.retried(
            lambda: self._score(query, passages, whole=whole, until=until), ends=ends
        )

    async def _score(
        self, query: str, passages: Sequence[str], *, whole: bool, until: float | None
    ) -> Reading:
        left = _seconds(until)
        tokens = _tokens(query, passages)
        async with self._gate.attempt(cohere.classify, tokens=tokens, seconds=left) as call:
            async with within(loop_time(left), self._target):
                response = await self._client.rerank(
                    model=self.model,
                    query=query,
                    documents=list(passages),
                    max_tokens_per_doc=WHOLE_TOKENS if whole else PART_TOKENS,
                    request_options=cohere.options(left),
                )
            scored = [
                Scored(each.index, log_odds(each.relevance_score)) for each in response.results
            ]
            if sorted(each.index for each in scored) != list(range(len(passages))):
                raise MalformedResponse(self._target, code="RESULTS_INCOMPLETE")
            meta = response.meta
            counted = int(meta.tokens.input_tokens or 0) if meta and meta.tokens else 0
            tokens = counted or tokens
            call.used(input_tokens=tokens)
        searches = (meta.billed_units.search_units or 0) if meta and meta.billed_units else 0
        cost = self._cost(tokens, searches or _searches(passages))
        return Reading(scored, tokens, cost, estimated=not counted)

    async def close(self) -> None:
        """Closes the connections."""
        await cohere.close(self._client)


def _seconds(until: float | None) -> float:
    """Time a call may take, when it has to be back by `until` of the monotonic clock."""
    left = deadline.for_call(LONGEST_CALL_SECONDS) or LONGEST_CALL_SECONDS
    return left if until is None else min(left, until - time.monotonic())


def _tokens(query: str, passages: Sequence[str]) -> int:
    """The query is read again with each passage."""
    return len(passages) * estimated_tokens([query]) + estimated_tokens(passages)


def _searches(passages: Sequence[str]) -> int:
    return max(1, math.ceil(len(passages) / DOCUMENTS_PER_SEARCH))


def log_odds(score: float) -> float:
    """The logit whose sigmoid is the score."""
    bounded = min(max(score, SURE), 1 - SURE)
    return math.log(bounded / (1 - bounded))
