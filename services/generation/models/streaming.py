"""What the providers' models share: deadlines, errors of our taxonomy, an end that counts."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

from meshkit.providers.attempt import Classify, until, within
from meshkit.providers.catalogue import Model
from meshkit.providers.errors import StreamTruncated
from meshkit.providers.gate import Gate
from services.generation.language_model import Finished, Prompt, Spent
from services.generation.models import accounting

DRAIN_SECONDS = 0.2


async def drain(rest: AsyncIterator[Any]) -> None:
    """Reads what is left of a stream behind its closing event, which has no meaning any more.

    A response that was not read to its end takes its connection with it, and the next call would
    have to make another one.
    """
    with suppress(Exception):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in rest:
                pass


class StreamingModel(ABC):
    """A `LanguageModel` over an SDK's stream; what differs is `_steps` and `close`.

    Args:
        listed: The model as the catalogue has it.
        classify: What the SDK's exceptions mean.
        gate: Where its calls go through.
    """

    def __init__(self, listed: Model, classify: Classify, gate: Gate) -> None:
        self.provider = listed.provider
        self.model = listed.model
        self._listed = listed
        self._classify = classify
        self._gate = gate
        self._target = gate.target

    def estimate(self, prompt: Prompt, output_tokens: int, *, thinks: bool = True) -> Spent:
        """See `LanguageModel`."""
        thoughts = self._listed.thinking_tokens if thinks else 0
        return accounting.estimate(self._listed, prompt, output_tokens + thoughts)

    async def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int,
        seconds: float,
        patience: float,
        temperature: float | None = None,
    ) -> AsyncGenerator[str | Finished, None]:
        """See `LanguageModel`."""
        ends, step_ends = until(seconds), until(min(patience, seconds))
        steps = self._steps(prompt, max_tokens, seconds, temperature)
        most = self.estimate(prompt, max_tokens)
        passing = self._gate.attempt(
            self._classify,
            tokens=most.input_tokens + most.output_tokens,
            seconds=min(patience, seconds),
        )
        async with aclosing(steps), passing as call:
            call.asked([("system", prompt.system), *((m.role, m.text) for m in prompt.messages)])
            complete = False
            while True:
                try:
                    async with within(step_ends, self._target):
                        step = await anext(steps)
                except StopAsyncIteration:
                    break
                step_ends = min(ends, until(patience))
                complete = isinstance(step, Finished)
                if isinstance(step, Finished):
                    took = step.spent
                    call.used(
                        input_tokens=took.input_tokens,
                        output_tokens=took.output_tokens,
                        finish=step.finish,
                    )
                elif step:
                    call.wrote(step)
                if step:
                    yield step
            if not complete:
                raise StreamTruncated(self._target)

    @abstractmethod
    def _steps(
        self, prompt: Prompt, max_tokens: int, seconds: float, temperature: float | None
    ) -> AsyncGenerator[str | Finished, None]:
        """Pieces of text and at last one `Finished`, by the SDK; closing it closes the response."""

    @abstractmethod
    async def close(self) -> None:
        """Closes the connections."""
