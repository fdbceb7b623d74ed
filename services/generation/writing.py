"""One call to a language model for another part of the mesh: no sources, no guardrail."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from meshkit import deadline
from meshkit.errors import Unavailable
from meshkit.providers.errors import ProviderError
from meshkit.usage import Budget
from services.generation.answers import Switched
from services.generation.failover import LanguageModels, Serving
from services.generation.language_model import Finished, Prompt

STAGE = "generate"


class Writing:
    """What the RPC `Generate` does.

    Args:
        models: Who writes; may be empty.
        budget: Where spends are reserved and settled.
        seconds: Time a text has when its caller sets no deadline.
        goes_on: Whether another model starts over when one fails in the middle of its text.
    """

    def __init__(
        self, models: LanguageModels, budget: Budget, seconds: float, *, goes_on: bool = True
    ) -> None:
        self._models = models
        self._budget = budget
        self._seconds = seconds
        self._goes_on = goes_on

    async def write(
        self, prompt: Prompt, *, max_tokens: int, temperature: float | None, provider: str
    ) -> AsyncGenerator[Serving | str | Switched | Finished, None]:
        """`Serving`, pieces of text, one `Finished`; behind a `Switched` the text starts over.

        Args:
            prompt: What to read.
            max_tokens: Tokens the text may have.
            temperature: Sampling temperature; None leaves it to the model.
            provider: Who is asked first; empty keeps the order.

        Raises:
            Unavailable: PROVIDER_UNAVAILABLE.
            Unprocessable: PROVIDER_BLOCKED_CONTENT.
            DeadlineExceeded: PROVIDER_TIMED_OUT.
            BudgetExhausted: the project cannot pay it.
        """
        if not self._models:
            raise Unavailable(
                "PROVIDER_UNAVAILABLE",
                "No language model is configured; set CITEMESH_GENERATION_PROVIDERS and a key.",
            )
        first = self._models.first
        spend = self._budget.spend(
            estimate_micro_usd=self._models.estimate_micro_usd(prompt, max_tokens),
            stage=STAGE,
            provider=first.provider,
            model=first.model,
        )
        try:
            async with spend as settlement:
                steps = self._models.stream(
                    prompt,
                    max_tokens=max_tokens,
                    seconds=deadline.for_call(self._seconds) or self._seconds,
                    spend=settlement,
                    temperature=temperature,
                    begin_with=provider,
                    go_on=(lambda: prompt) if self._goes_on else None,
                )
                async with aclosing(steps):
                    async for step in steps:
                        yield replace(step, restarted=True) if isinstance(step, Switched) else step
        except ProviderError as error:
            raise error.as_mesh_error() from None
