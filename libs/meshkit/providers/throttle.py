"""This process's share of a provider's quotas, handed out before the provider has to refuse.

The shares of all replicas and lanes together are the quota (docs/providers.md says how to set
them). Who has to wait is served in turns (`meshkit.resilience.rate`), and who could not be served
in time is told so at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from meshkit.providers.catalogue import Model
from meshkit.providers.errors import RateLimited, Target
from meshkit.resilience.rate import Bucket, DayCount, Lane, Turns
from meshkit.telemetry import metrics

WEIGHTS = ((Lane.QUESTION, 10.0), (Lane.BULK, 1.0))
"""A question before ten batches of an upload; an upload is slowed, never stopped."""
LOCAL = "LOCAL_QUOTA"
"""Code of a refusal that the provider never saw."""

_waits = metrics.histogram("citemesh.provider.throttle.wait")


@dataclass(eq=False, slots=True)
class _Waiting:
    tokens: int
    ready: asyncio.Future[None] = field(default_factory=asyncio.Future)


class Throttle:
    """The quotas of one model, as far as this process may use them.

    Args:
        model: Whose limits, as the catalogue has them; 0 is no limit.
        share: Part of them that is ours, above 0, at most 1.
        clock: Seconds that never go back.
        today: Unix time.
    """

    def __init__(
        self,
        model: Model,
        share: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], float] = time.time,
    ) -> None:
        now = clock()
        self._target = Target(model.provider, model.model, model.operation)
        self._clock = clock
        self._today = today
        requests, tokens, day = (
            model.requests_per_minute * share,
            model.tokens_per_minute * share,
            int(model.requests_per_day * share),
        )
        self._requests = Bucket(requests, now) if requests else None
        self._tokens = Bucket(tokens, now) if tokens else None
        self._day = DayCount(max(1, day)) if model.requests_per_day else None
        self._turns: Turns[_Waiting] = Turns(WEIGHTS)
        self._timer: asyncio.TimerHandle | None = None

    async def take(self, tokens: int, *, lane: Lane, project: str, seconds: float) -> None:
        """Waits for the turn of a call.

        Args:
            tokens: What it will read and write at most, estimated.
            lane: What it is for.
            project: Whose call it is; the projects of a lane take turns.
            seconds: How long it can wait.

        Raises:
            RateLimited: it would have to wait for longer. The provider was not called.
        """
        began = self._clock()
        if (alone := self._wait(tokens)) > seconds:
            raise self._refused(alone)
        waiting = _Waiting(tokens)
        self._turns.add(lane, project, waiting)
        self._serve()
        try:
            async with asyncio.timeout(seconds):
                await waiting.ready
        except TimeoutError:
            raise self._refused(self._wait(tokens)) from None
        finally:
            self._turns.remove(lane, project, waiting)
            _waits.record(self._clock() - began, {"provider": self._target.provider, "lane": lane})
            # Who was first in line may have left it to somebody who needs less.
            self._serve()

    def _serve(self) -> None:
        """Lets go whoever's turn it is, and looks again when the next one can."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while (upcoming := self._turns.next()) is not None:
            wait = self._wait(upcoming.tokens)
            if wait > 0:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(wait, self._serve)
                return
            self._turns.pop()
            now = self._clock()
            if self._requests:
                self._requests.take(1, now)
            if self._tokens:
                self._tokens.take(upcoming.tokens, now)
            if self._day:
                self._day.take(self._today())
            if not upcoming.ready.done():
                upcoming.ready.set_result(None)

    def _wait(self, tokens: int) -> float:
        now = self._clock()
        return max(
            self._requests.wait(1, now) if self._requests else 0.0,
            self._tokens.wait(tokens, now) if self._tokens else 0.0,
            self._day.wait(self._today()) if self._day else 0.0,
        )

    def _refused(self, seconds: float) -> RateLimited:
        return RateLimited(self._target, code=LOCAL, retry_after=seconds)
