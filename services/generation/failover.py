"""Language models in their order, each tried again once where that may help.

While none has said a word the next one is asked, and nobody notices. After the first word it goes
on only for a caller that can tell its reader so; else the failure ends the text.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from meshkit.logging import logger
from meshkit.providers.attempt import until
from meshkit.providers.catalogue import estimated_tokens
from meshkit.providers.errors import ProviderError
from meshkit.providers.gate import left, pause_before_retry
from meshkit.usage import Spend, Used
from services.generation.answers import Switched
from services.generation.language_model import Finished, LanguageModel, Prompt, Spent

log = logger(__name__)

SHARE = 0.5
"""Of the time there is, for one model's first word when another could follow."""
WHOLE_SHARE = 0.7
"""Of the time there is, for one model's whole text when another could go on with it."""


@dataclass(frozen=True, slots=True)
class Serving:
    """The model whose text follows."""

    provider: str
    model: str


class LanguageModels:
    """Writes with the first model that can.

    Args:
        models: The preferred one first; without any nothing can be written.
        first_word_seconds: Longest wait for a model's first word, or for any word behind it, when
            another could follow.
    """

    def __init__(self, models: Sequence[LanguageModel], *, first_word_seconds: float) -> None:
        self._models = tuple(models)
        self._first_word_seconds = first_word_seconds

    def __bool__(self) -> bool:
        """Whether there is anybody."""
        return bool(self._models)

    @property
    def first(self) -> LanguageModel:
        """The preferred one."""
        return self._models[0]

    def estimate_micro_usd(self, prompt: Prompt, output_tokens: int) -> int:
        """What the dearest of them costs."""
        return max(m.estimate(prompt, output_tokens).cost_micro_usd for m in self._models)

    async def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int,
        seconds: float,
        spend: Spend,
        temperature: float | None = None,
        begin_with: str = "",
        go_on: Callable[[], Prompt] | None = None,
    ) -> AsyncGenerator[Serving | str | Switched | Finished, None]:
        """`Serving`, pieces of text, one `Finished`; in between, `Switched` and `Serving` again.

        Args:
            prompt: What to read.
            max_tokens: Tokens the text may have.
            seconds: Time until its last piece.
            spend: Told what each call took, also one that failed or was given up.
            temperature: See `LanguageModel.stream`.
            begin_with: Provider to ask first; empty keeps the order.
            go_on: What the next model reads when one has failed in the middle of its text, asked
                after the `Switched`; None ends the text there.

        Raises:
            ProviderError: the last model's; or one's in the middle of its text.
        """
        ends = until(seconds)
        ordered = sorted(self._models, key=lambda model: model.provider != begin_with)
        for place, model in enumerate(ordered, 1):
            follower = ordered[place] if place < len(ordered) else None
            whole = patience = left(ends)
            if follower is not None:
                patience = min(self._first_word_seconds, SHARE * whole)
                whole *= WHOLE_SHARE if go_on is not None else 1
            waits_until, whole_until = until(patience), until(whole)
            tried = 0
            while True:
                written = False
                failure: ProviderError | None = None
                steps = self._metered(
                    model, prompt, max_tokens, left(whole_until), patience, temperature, spend
                )
                try:
                    async with aclosing(steps):
                        async for step in steps:
                            if not written:
                                written = True
                                yield Serving(model.provider, model.model)
                            yield step
                except ProviderError as error:
                    failure = error
                if failure is None:
                    return
                pause = None if written else pause_before_retry(failure, tried, left(waits_until))
                if pause is None:
                    break
                tried += 1
                await asyncio.sleep(pause)
            if follower is None or (written and go_on is None):
                raise failure
            log.info("next language model", failed=model.provider, kind=failure.kind)
            if written and go_on is not None:
                yield Switched(model.provider, follower.provider, failure.reason)
                prompt = go_on()

    async def _metered(
        self,
        model: LanguageModel,
        prompt: Prompt,
        max_tokens: int,
        seconds: float,
        patience: float,
        temperature: float | None,
        spend: Spend,
    ) -> AsyncGenerator[str | Finished, None]:
        """One model's stream; whatever ends it, what it took is noted."""
        text: list[str] = []
        refused = False
        spent: Spent | None = None
        stream = model.stream(
            prompt,
            max_tokens=max_tokens,
            seconds=seconds,
            patience=patience,
            temperature=temperature,
        )
        try:
            async with aclosing(stream):
                async for step in stream:
                    if isinstance(step, Finished):
                        spent = step.spent if not step.spent.estimated else None
                        spent = spent or model.estimate(
                            prompt, estimated_tokens(text), thinks=False
                        )
                        yield replace(step, spent=spent)
                    else:
                        text.append(step)
                        yield step
        except ProviderError as error:
            refused = not text and not error.billed
            raise
        finally:
            if spent is None and not refused:
                spent = model.estimate(prompt, estimated_tokens(text), thinks=False)
            if spent is not None:
                spend.add(
                    Used(
                        model.provider,
                        model.model,
                        spent.input_tokens,
                        spent.output_tokens,
                        spent.cost_micro_usd,
                        spent.estimated,
                    )
                )

    async def close(self) -> None:
        """Closes every model."""
        for model in self._models:
            await model.close()
