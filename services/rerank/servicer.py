"""The RPC of the rerank service: protobuf in, protobuf out."""

from __future__ import annotations

import time
from typing import Any

from citemesh.rerank import v1
from citemesh.usage.v1 import Usage
from meshkit import deadline
from meshkit.context import ADMIN, INTERNAL, READ, WRITE, require_scope
from meshkit.telemetry import span
from services.rerank.ranking import best_first
from services.rerank.scoring import STAGE, Scoring


class RerankServicer(v1.RerankServiceServicer):
    """Translates and delegates.

    Args:
        scoring: Who scores.
        margin_seconds: Kept of the caller's deadline for the way home.
    """

    def __init__(self, scoring: Scoring, margin_seconds: float) -> None:
        self._scoring = scoring
        self._margin = margin_seconds

    async def Rerank(self, request: v1.RerankRequest, _context: Any) -> v1.RerankResponse:
        """Scores passages against a query, as many as the deadline allows."""
        require_scope(READ, WRITE, ADMIN, INTERNAL)
        left = deadline.remaining()
        until = None if left is None else time.monotonic() + left - self._margin
        texts = [passage.text for passage in request.passages]
        with span("rerank.model", {"citemesh.passages": len(texts)}) as current:
            scores = await self._scoring.score(
                request.query, texts, whole=request.whole_passages, until=until
            )
            reading = scores.reading
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
            languages=scores.languages,
            known_languages=self._scoring.languages,
            patience_seconds=self._scoring.patience_seconds,
            usage=Usage(
                stage=STAGE,
                provider=scores.provider,
                model=scores.model,
                input_tokens=reading.input_tokens,
                cost_micro_usd=reading.cost_micro_usd,
                estimated=reading.estimated,
            ),
        )
