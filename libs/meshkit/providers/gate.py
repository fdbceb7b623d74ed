"""The one way to a provider's model: its breaker, its share of the quota, its deadline, its retry.

Only here is a call repeated. Neither an SDK nor a caller of our service does it again, so
that one failure is not multiplied by every hop.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from meshkit import context
from meshkit.providers.attempt import Call, Classify, attempt
from meshkit.providers.breakers import Breakers
from meshkit.providers.errors import BreakerOpen, ProviderError, Target
from meshkit.providers.throttle import Throttle
from meshkit.resilience.backoff import full_jitter
from meshkit.resilience.rate import Lane

T = TypeVar("T")

RETRIES = 1
"""Second tries of a call; what fails twice is the next provider's to answer."""
RETRY_LEAST_SECONDS = 0.25
"""Time that a second try must still have, after its pause."""


class Gate:
    """Where calls to one model go through.

    Args:
        target: The model and what it is called for.
        breakers: Those of this process.
        throttle: This process's share of the model's quotas; None does not count.
        lane: What this process's calls are for.
        retries: Second tries of a call that was not a stream.
    """

    def __init__(
        self,
        target: Target,
        breakers: Breakers,
        throttle: Throttle | None = None,
        lane: Lane = Lane.QUESTION,
        *,
        retries: int = RETRIES,
    ) -> None:
        self.target = target
        self._breakers = breakers
        self._throttle = throttle
        self._lane = lane
        self._retries = retries

    @property
    def is_open(self) -> bool:
        """Whether a call would be refused now, because of failures before it."""
        return self._breakers.is_open(self.target)

    @asynccontextmanager
    async def attempt(
        self, classify: Classify, *, tokens: int, seconds: float
    ) -> AsyncIterator[Call]:
        """Around one call.

        Args:
            classify: What the SDK's exceptions mean.
            tokens: What it reads and writes at most, estimated.
            seconds: How long it can wait for its turn.

        Raises:
            ProviderError: what happened; BreakerOpen or a RateLimited with the code
                LOCAL_QUOTA when the provider was not called.
        """
        if self.is_open:
            with self._breakers.guard(self.target):
                pass
        if self._throttle is not None:
            request = context.peek()
            project = request.project_id if request else ""
            await self._throttle.take(tokens, lane=self._lane, project=project, seconds=seconds)
        with self._breakers.guard(self.target):
            async with attempt(self.target, classify) as call:
                yield call

    async def retried(self, call: Callable[[], Awaitable[T]], *, ends: float) -> T:
        """What the call gives, by a second try where that may help and there is time.

        Args:
            call: Makes one attempt; called again from the start.
            ends: The event loop's time by which it must be over.

        Raises:
            ProviderError: the last try's.
        """
        tried = 0
        while True:
            try:
                return await call()
            except ProviderError as error:
                pause = pause_before_retry(error, tried, left(ends), self._retries)
                if pause is None:
                    raise
            tried += 1
            await asyncio.sleep(pause)


def left(ends: float) -> float:
    """Seconds until the event loop's time `ends`."""
    return ends - asyncio.get_running_loop().time()


def pause_before_retry(
    error: ProviderError,
    tried: int,
    seconds: float,
    retries: int = RETRIES,
    chance: Callable[[], float] = random.random,
) -> float | None:
    """Seconds to wait before the same call again; None when it should not be made.

    Args:
        error: How it failed.
        tried: Tries again so far.
        seconds: Time that is left.
        retries: Most tries again.
        chance: Uniform in [0, 1).
    """
    if tried >= retries or not error.retryable or isinstance(error, BreakerOpen):
        return None
    # A provider that names a time means it: its breaker rests until then.
    if error.retry_after is not None:
        return None
    pause = full_jitter(tried, chance())
    return pause if pause + RETRY_LEAST_SECONDS <= seconds else None
