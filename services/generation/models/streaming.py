"""What every stream of a provider has: a deadline, errors of our taxonomy, an end that counts."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from meshkit.providers.attempt import Classify, attempt, until, within
from meshkit.providers.errors import StreamTruncated, Target
from services.generation.language_model import Finished


async def timed(
    steps: AsyncGenerator[str | Finished, None],
    target: Target,
    classify: Classify,
    *,
    seconds: float,
    patience: float,
) -> AsyncGenerator[str | Finished, None]:
    """The steps of a stream as a `LanguageModel` gives them.

    Args:
        steps: Pieces of text and at last one `Finished`; closed in any case.
        target: What is called.
        classify: What the SDK's exceptions mean.
        seconds: Time until the last step.
        patience: Time until the first one.

    Raises:
        ProviderError: what the steps ran into, or that they ended without `Finished`.
    """
    ends, step_ends = until(seconds), until(min(patience, seconds))
    async with attempt(target, classify), aclosing(steps):
        complete = False
        while True:
            try:
                async with within(step_ends, target):
                    step = await anext(steps)
            except StopAsyncIteration:
                break
            step_ends = ends
            complete = isinstance(step, Finished)
            if step:
                yield step
        if not complete:
            raise StreamTruncated(target)
