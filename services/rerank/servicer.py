"""The RPC of the rerank service: protobuf in, protobuf out."""

from __future__ import annotations

import time
from typing import Any

from citemesh.rerank import v1
from citemesh.usage.v1 import Usage
from meshkit import deadline
from meshkit.context import ADMIN, INTERNAL, READ, WRITE, require_scope
from meshkit.telemetry import span
from meshkit.usage import Budget
from services.rerank.ranking import best_first
from services.rerank.reranker import Reranker

STAGE = "rerank"


class RerankServicer(v1.RerankServiceServicer):
    """Translates and delegates.

    Args:
        reranker: Who scores.
        budget: Where spends are reserved and settled.
        margin_seconds: Kept of the caller's deadline for the way home.
    """

    def __init__(self, reranker: Reranker, budget: Budget, margin_seconds: float) -> None:
        self._reranker = reranker
        self._budget = budget
        self._margin = margin_seconds

    async def Rerank(self, request: v1.RerankRequest, _context: Any) -> v1.RerankResponse:
        """Scores passages against a query, as many as the deadline allows."""
        require_scope(READ, WRITE, ADMIN, INTERNAL)
        left = deadline.remaining()
        until = None if left is None else time.monotonic() + left - self._margin
        texts = [passage.text for passage in request.passages]
        spend = self._budget.spend(
            estimate_micro_usd=self._reranker.estimate_micro_usd(request.query, texts),
            stage=STAGE,
            provider=self._reranker.provider,
            model=self._reranker.model,
        )
        with span("rerank.model", {"citemesh.passages": len(texts)}) as current:
            async with spend as settlement:
                reading = await self._reranker.score(
                    request.query, texts, whole=request.whole_passages, until=until
                )
                settlement.settle(
                    input_tokens=reading.input_tokens, cost_micro_usd=reading.cost_micro_usd
                )
            current.set_attribute("citemesh.passages_read", len(reading.scored))
        return v1.RerankResponse(
            results=[
                v1.RerankResult(
                    id=request.passages[each.index].id,
                    index=each.index,
                    score=each.score,
                    logit=each.logit,
                )
                for each in best_first(reading.scored, request.top_n)
            ],
            complete=len(reading.scored) == len(texts),
            usage=Usage(
                stage=STAGE,
                provider=self._reranker.provider,
                model=self._reranker.model,
                input_tokens=reading.input_tokens,
                cost_micro_usd=reading.cost_micro_usd,
                estimated=reading.estimated,
            ),
        )
