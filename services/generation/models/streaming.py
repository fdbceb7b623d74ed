"""What the providers' models share: deadlines, errors of our taxonomy, an end that counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing

import httpx
import httpx2

from meshkit.providers.attempt import Classify, until, within
from meshkit.providers.catalogue import Model
from meshkit.providers.errors import StreamTruncated
from meshkit.providers.gate import Gate
from services.generation.language_model import Finished, Prompt, Spent
from services.generation.models import accounting, events
from services.generation.models.events import Message
from services.generation.rhythm import Rhythm


class StreamingModel(ABC):
    """A `LanguageModel` over an SDK's stream; what differs is `_steps` and `close`.

    Args:
        listed: The model as the catalogue has it.
        classify: What the SDK's exceptions mean.
        gate: Where its calls go through.
        rhythm: When the next piece of a text is read.
    """

    def __init__(self, listed: Model, classify: Classify, gate: Gate, rhythm: Rhythm) -> None:
        self.provider = listed.provider
        self.model = listed.model
        self._listed = listed
        self._classify = classify
        self._gate = gate
        self._target = gate.target
        self._rhythm = rhythm

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
            with self._rhythm.stream():
                while True:
                    try:
                        async with within(step_ends, self._target):
                            step = await anext(steps)
                    except StopAsyncIteration:
                        break
                    complete = isinstance(step, Finished)
                    if isinstance(step, Finished):
                        took = step.spent
                        call.used(
                            input_tokens=took.input_tokens,
                            output_tokens=took.output_tokens,
                            finish=step.finish,
                        )
                    else:
                        call.wrote(step)
                    yield step
                    step_ends = min(ends, until(patience))
            if not complete:
                raise StreamTruncated(self._target)

    async def _read(
        self, response: httpx.Response | httpx2.Response, message: Message
    ) -> AsyncGenerator[str | Finished, None]:
        """What the events of a response come to, in this process's rhythm."""
        async with aclosing(events.read(response.aiter_bytes(), message, self._rhythm)) as steps:
            async for step in steps:
                yield step

    @abstractmethod
    def _steps(
        self, prompt: Prompt, max_tokens: int, seconds: float, temperature: float | None
    ) -> AsyncGenerator[str | Finished, None]:
        """Pieces of text and at last one `Finished`, of a call by the SDK.

        Closing it closes the response.
        """

    @abstractmethod
    async def close(self) -> None:
        """Closes the connections."""
