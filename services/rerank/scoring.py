"""Scoring with whoever can: the providers in their order, each attempt a spend of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from meshkit.errors import Unavailable
from meshkit.logging import logger
from meshkit.providers.errors import ProviderError, TimedOut
from meshkit.usage import Budget
from services.rerank.reranker import Reading, Reranker

log = logger(__name__)

STAGE = "rerank"
SHARE = 0.6
"""Of the time that is left, for one provider when another could follow."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores, and who gave them."""

    reading: Reading
    provider: str
    model: str
    languages: Sequence[str] = ()
    """That model was trained for; empty means any."""


class Scoring:
    """Asks rerankers until one answers.

    Args:
        rerankers: The preferred one first, at least one.
        budget: Where spends are reserved and settled.
    """

    def __init__(self, rerankers: Sequence[Reranker], budget: Budget) -> None:
        self._rerankers = rerankers
        self._budget = budget

    async def score(
        self, query: str, passages: Sequence[str], *, whole: bool, until: float | None
    ) -> Scores:
        """Scores passages; see `Reranker.score`.

        When time is up it is as with a model that reads pair by pair: what was not read
        in time is left out, here everything.

        Raises:
            Unavailable: PROVIDER_UNAVAILABLE: nobody could.
            BudgetExhausted: the project cannot pay it.
        """
        failure: ProviderError | None = None
        for place, reranker in enumerate(self._rerankers, 1):
            ends = until
            if until is not None and place < len(self._rerankers):
                now = time.monotonic()
                ends = now + SHARE * (until - now)
            try:
                reading = await self._attempt(reranker, query, passages, whole, ends)
            except TimedOut as error:
                failure = error
                if until is not None and place == len(self._rerankers):
                    return _scores(reranker, Reading([], 0))
            except ProviderError as error:
                failure = error
            else:
                return _scores(reranker, reading)
        if failure is None:
            raise Unavailable("PROVIDER_UNAVAILABLE", "No provider scores passages here.")
        raise failure.as_mesh_error()

    @property
    def languages(self) -> Sequence[str]:
        """Of all rerankers together; empty means any."""
        each = [reranker.languages for reranker in self._rerankers]
        return sorted({code for codes in each for code in codes}) if all(each) else ()

    @property
    def patience_seconds(self) -> float:
        """What a caller should leave for the preferred one, and for the next when it fails."""
        first, *others = self._rerankers
        return first.patience_seconds / SHARE if others else first.patience_seconds

    async def _attempt(
        self,
        reranker: Reranker,
        query: str,
        passages: Sequence[str],
        whole: bool,
        until: float | None,
    ) -> Reading:
        spend = self._budget.spend(
            estimate_micro_usd=reranker.estimate_micro_usd(query, passages),
            stage=STAGE,
            provider=reranker.provider,
            model=reranker.model,
        )
        async with spend as settlement:
            try:
                reading = await reranker.score(query, passages, whole=whole, until=until)
            except ProviderError as error:
                if error.billed:
                    estimate = reranker.estimate_micro_usd(query, passages)
                    settlement.settle(input_tokens=0, cost_micro_usd=estimate)
                raise
            settlement.settle(
                input_tokens=reading.input_tokens, cost_micro_usd=reading.cost_micro_usd
            )
        return reading

    async def close(self) -> None:
        """Closes every reranker."""
        for reranker in self._rerankers:
            await reranker.close()


def _scores(reranker: Reranker, reading: Reading) -> Scores:
    return Scores(reading, reranker.provider, reranker.model, reranker.languages)
