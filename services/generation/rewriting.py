"""Completing a follow-up question with its conversation, by a model for cheap work.

"And in 2023?" finds nothing by itself. The rules of `follow_up` add words of the question before;
a language model makes a question of it, in a hundred tokens. When it cannot, the rules do.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from meshkit.logging import logger
from meshkit.providers.errors import ProviderError
from meshkit.usage import Budget
from services.generation import follow_up
from services.generation.answers import Usage
from services.generation.failover import LanguageModels
from services.generation.models.accounting import usages
from services.generation.prompt import rewriting_prompt

log = logger(__name__)

STAGE = "rewrite"
TURNS = 3
"""Questions before it that a follow-up is completed with."""
MOST_TOKENS = 200
LONGEST = 2000
"""Characters of a question; what is longer is no question."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A question that can be understood by itself."""

    text: str
    usage: tuple[Usage, ...] = ()
    degraded: tuple[str, ...] = ()


class Rewriting:
    """Makes follow-up questions stand by themselves.

    Args:
        models: Who rewrites; without any the rules do it alone.
        budget: Where spends are reserved and settled.
    """

    def __init__(self, models: LanguageModels, budget: Budget) -> None:
        self._models = models
        self._budget = budget

    async def complete(self, question: str, before: Sequence[str], *, seconds: float) -> Completed:
        """The question as it is searched for and answered.

        Args:
            question: As asked.
            before: What the turns before it were about, the last one first.
            seconds: Time there is; then the rules have to do.

        Raises:
            BudgetExhausted: the project cannot pay it.
        """
        if not before or not follow_up.leans_on_history(question):
            return Completed(question)
        by_rules = follow_up.search_text(question, before[0])
        if not self._models:
            return Completed(by_rules)
        prompt = rewriting_prompt(question, list(reversed(before[:TURNS])))
        first = self._models.first
        spend = self._budget.spend(
            estimate_micro_usd=self._models.estimate_micro_usd(prompt, MOST_TOKENS),
            stage=STAGE,
            provider=first.provider,
            model=first.model,
        )
        pieces: list[str] = []
        failed = False
        async with spend as settlement:
            steps = self._models.stream(
                prompt, max_tokens=MOST_TOKENS, seconds=seconds, spend=settlement
            )
            try:
                async with aclosing(steps):
                    pieces += [step async for step in steps if isinstance(step, str)]
            except ProviderError as error:
                log.warning("follow-up completed by rules", kind=error.kind)
                failed = True
        usage = usages(STAGE, settlement)
        rewritten = " ".join("".join(pieces).split())
        if failed or not 0 < len(rewritten) <= LONGEST:
            return Completed(by_rules, usage, (STAGE,))
        return Completed(rewritten, usage)
