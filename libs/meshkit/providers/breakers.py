"""The breakers of this process: one for each model and operation, one for each account.

They live in memory on purpose. A restart forgets them, and every replica finds out for itself.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from opentelemetry.metrics import CallbackOptions, Observation

from meshkit.logging import logger
from meshkit.providers.errors import (
    AccountBlocked,
    BreakerOpen,
    KeyRejected,
    ModelUnknown,
    ProviderError,
    QuotaExhausted,
    Scope,
    Target,
    TimedOut,
)
from meshkit.resilience.breaker import Breaker, Fault, Pass, Policy, Refusal, State, View
from meshkit.telemetry import metrics

log = logger(__name__)

FAIR_SECONDS = 1.0
"""A call that had less time than this may run out of it at a healthy provider."""

_FAULTS: dict[type[ProviderError], Fault] = {
    KeyRejected: Fault.REVOKED,
    ModelUnknown: Fault.REVOKED,
    AccountBlocked: Fault.ACCOUNT,
    QuotaExhausted: Fault.ACCOUNT,
}
_NUMBERS = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


def fault_of(error: ProviderError) -> Fault:
    """What an error says about the calls that would follow it."""
    return _FAULTS.get(type(error), Fault.TRANSIENT)


@dataclass(frozen=True, slots=True)
class Line:
    """One breaker as a person may see it."""

    target: Target
    """Model and operation are empty for the account's own breaker."""
    view: View


class Breakers:
    """Lets calls to providers through, or refuses them before they are made.

    Args:
        policy: When breakers open and for how long.
        clock: Seconds that never go back.
        chance: Uniform in [0, 1).
    """

    def __init__(
        self,
        policy: Policy,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._chance = chance
        self._breakers: dict[Target, Breaker] = {}
        metrics.observed("citemesh.provider.breaker", self._observe)

    @contextmanager
    def guard(self, target: Target) -> Iterator[None]:
        """Around one call; its end tells the breakers how the provider fares.

        Raises:
            BreakerOpen: the call was not made.
        """
        account = Target(target.provider, "", "")
        began = self._clock()
        leaves: dict[Target, Pass] = {}
        try:
            for key in (account, target):
                leaves[key] = self._admit(key, target)
            yield
        except ProviderError as error:
            self._failed(leaves, account, error, self._clock() - began)
            raise
        except BaseException:
            # The caller went away, or we are at fault: the provider has not shown anything.
            for key, leave in leaves.items():
                self._breakers[key].abandoned(leave, self._clock())
            raise
        else:
            now = self._clock()
            for key, leave in leaves.items():
                self._changing(key, partial(Breaker.succeeded, leave=leave, now=now))

    def lines(self) -> list[Line]:
        """Every breaker that was ever asked, by name."""
        now = self._clock()
        keys = sorted(self._breakers, key=lambda t: (t.provider, t.model, t.operation))
        return [Line(key, self._breakers[key].view(now)) for key in keys]

    def reset(self, provider: str = "") -> int:
        """Closes the breakers of a provider by hand, or all; returns how many were not closed."""
        count = 0
        for line in self.lines():
            if provider in ("", line.target.provider) and line.view.state is not State.CLOSED:
                self._changing(line.target, Breaker.reset)
                count += 1
        return count

    def is_open(self, target: Target) -> bool:
        """Whether a call would be refused now; asks for nothing and counts for nothing."""
        now = self._clock()
        for key in (Target(target.provider, "", ""), target):
            breaker = self._breakers.get(key)
            if breaker is not None and breaker.view(now).seconds_left > 0:
                return True
        return False

    def _admit(self, key: Target, target: Target) -> Pass:
        breaker = self._breakers.get(key)
        if breaker is None:
            breaker = self._breakers[key] = Breaker(self._policy, self._chance)
        leave = breaker.admit(self._clock())
        if isinstance(leave, Refusal):
            raise BreakerOpen(target, retry_after=leave.retry_after or None)
        return leave

    def _failed(
        self, leaves: dict[Target, Pass], account: Target, error: ProviderError, seconds: float
    ) -> None:
        now = self._clock()
        unfair = isinstance(error, TimedOut) and seconds < FAIR_SECONDS
        until = None if error.retry_after is None else now + error.retry_after
        for key, leave in leaves.items():
            if isinstance(error, BreakerOpen) or unfair:
                self._breakers[key].abandoned(leave, now)
            elif error.scope is Scope.REQUEST:
                # It answered; that it did not like the request is no fault of its own.
                self._changing(key, partial(Breaker.succeeded, leave=leave, now=now))
            elif (error.scope is Scope.ACCOUNT) is (key == account):
                failed = partial(
                    Breaker.failed, leave=leave, now=now, fault=fault_of(error), until=until
                )
                self._changing(key, failed)
            else:
                # Of the other breaker's matter nothing was seen.
                self._breakers[key].abandoned(leave, now)

    def _changing(self, key: Target, change: Callable[[Breaker], None]) -> None:
        breaker, now = self._breakers[key], self._clock()
        before = breaker.view(now)
        change(breaker)
        after = breaker.view(now)
        if after.state is before.state:
            return
        say = (
            log.error if after.fault is Fault.REVOKED and after.state is State.OPEN else log.warning
        )
        say(
            "provider breaker",
            provider=key.provider,
            model=key.model,
            operation=key.operation,
            state=after.state.value,
            fault=after.fault.value if after.fault else "",
            step=after.step,
            seconds=round(after.seconds_left, 1),
        )

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        for line in self.lines():
            target = line.target
            yield Observation(
                _NUMBERS[line.view.state],
                {
                    "provider": target.provider,
                    "model": target.model,
                    "operation": target.operation,
                },
            )
