"""A circuit breaker with two ladders, one for each way a provider can be gone.

    CLOSED --trips--> OPEN --cooldown over--> HALF_OPEN (one probe)
       ^                ^                         |        |
       |                '-- probe failed: the ladder's next step
       '------------------- probe succeeded: ramp-up ------'

A provider that refuses our account (quota, key) will refuse it for minutes, and
two refusals in a row say so: the *account* ladder. One that is overloaded or
unreachable loses some calls and keeps others, and only a rate tells an outage
from bad luck: the *transient* ladder. At 1 % random errors and 100 calls a
second two failures in a row come every 100 s, and would darken a healthy
provider for minutes (docs/decisions, `make breaker-simulation`).

The machine is told the time and what happened, and says what may be done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum


class State(StrEnum):
    """What a breaker lets through."""

    CLOSED = "closed"
    """Calls, all of them or, just after a recovery, a growing share."""
    OPEN = "open"
    """Nothing until the cooldown has passed."""
    HALF_OPEN = "half_open"
    """One probe, which is under way."""


class Fault(StrEnum):
    """What a failure says about the calls that would follow it."""

    TRANSIENT = "transient"
    """Overloaded, slow or unreachable; the next call may succeed."""
    ACCOUNT = "account"
    """Quota or account refused; the next call will most likely be refused too."""
    REVOKED = "revoked"
    """The key is known to be void; there is no point in a second call."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When a breaker opens and for how long; all times in seconds."""

    account_ladder: tuple[float, ...] = (300, 900, 3_600, 10_800, 36_000)
    """Cooldowns after quota, key and account errors: 5, 15, 60, 180, 600 minutes."""
    transient_ladder: tuple[float, ...] = (5, 15, 60, 300, 900, 3_600)
    """Cooldowns after overload, time-outs and network errors."""
    consecutive: int = 2
    """Failures in a row that open it: account errors always, transient ones while
    the window holds fewer than `window_calls`."""
    window_seconds: float = 10.0
    """How far back the failure rate looks."""
    window_calls: int = 20
    """Calls in the window from which on the rate decides."""
    failure_rate: float = 0.5
    """Share of failed calls in the window that opens it."""
    probe_seconds: float = 120.0
    """A probe that has not reported by then is given up, and another may go."""
    ramp_seconds: float = 10.0
    """How long after a recovery only a growing share of the calls goes through."""
    ramp_start: float = 0.1
    """The share that the ramp begins with."""
    jitter: float = 0.1
    """Share of a cooldown that chance may add, so that replicas do not probe as one."""

    def __post_init__(self) -> None:
        for name in ("account_ladder", "transient_ladder"):
            if not getattr(self, name) or min(getattr(self, name)) <= 0:
                raise ValueError(f"{name} must be one or more positive times")
        if not 0 < self.failure_rate <= 1 or not 0 < self.ramp_start <= 1:
            raise ValueError("failure_rate and ramp_start must be shares above 0, at most 1")

    def ladder(self, fault: Fault) -> tuple[float, ...]:
        """The cooldowns after a fault."""
        return self.transient_ladder if fault is Fault.TRANSIENT else self.account_ladder


@dataclass(frozen=True, slots=True)
class Pass:
    """Leave for one call; its outcome is reported with it."""

    generation: int
    """Which life of the breaker it belongs to; outcomes of an earlier one do not count."""
    probe: bool
    """Whether the breaker waits for this outcome."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """No leave."""

    retry_after: float
    """Seconds until the next probe may go; 0 when a probe or a ramp is under way."""


@dataclass(frozen=True, slots=True)
class View:
    """What a person may see of a breaker."""

    state: State
    fault: Fault | None
    """What opened it; None while it has not been open since the last recovery."""
    step: int
    """Which rung of the ladder, from 1; 0 while closed, or when the provider named the time."""
    seconds_left: float
    """Until the next probe; 0 unless open."""


@dataclass(slots=True)
class Breaker:
    """One provider's model and operation, as this process experiences it.

    Args:
        policy: When to open and for how long.
        chance: Uniform in [0, 1); decides about the jitter.
    """

    policy: Policy
    chance: Callable[[], float]
    _state: State = State.CLOSED
    _generation: int = 0
    _window: deque[tuple[float, bool]] = field(default_factory=deque)
    _failed_in_window: int = 0
    _in_a_row: int = 0
    _account_in_a_row: int = 0
    _fault: Fault | None = None
    _step: int = -1
    _until: float = 0.0
    _probe_began: float = 0.0
    _ramp_began: float | None = None
    _credit: float = 0.0

    def admit(self, now: float) -> Pass | Refusal:
        """Leave for a call that is about to be made, or when to ask again."""
        if self._state is State.CLOSED:
            if self._ramp_lets_through(now):
                return Pass(self._generation, probe=False)
            return Refusal(0.0)
        if self._state is State.OPEN:
            if now < self._until:
                return Refusal(self._until - now)
            self._state = State.HALF_OPEN
        elif now < self._probe_began + self.policy.probe_seconds:
            return Refusal(0.0)
        # A new probe; what an abandoned one still reports belongs to the past.
        self._generation += 1
        self._probe_began = now
        return Pass(self._generation, probe=True)

    def succeeded(self, leave: Pass, now: float) -> None:
        """The call was answered. A refusal of the question itself is an answer too."""
        if leave.generation != self._generation:
            return
        if self._state is State.HALF_OPEN:
            self._close(now)
        elif self._state is State.CLOSED:
            self._in_a_row = self._account_in_a_row = 0
            self._note(now, failed=False)

    def failed(self, leave: Pass, now: float, fault: Fault, until: float | None = None) -> None:
        """The call failed for a reason that is the provider's.

        Args:
            leave: What `admit` gave.
            now: Seconds on the clock of `admit`.
            fault: What the failure says about the next call.
            until: When the provider says that it will answer again, if it does.
        """
        if leave.generation != self._generation:
            return
        if self._state is State.HALF_OPEN:
            self._open(now, fault, until)
        elif self._state is State.CLOSED:
            self._in_a_row += 1
            self._account_in_a_row = 0 if fault is Fault.TRANSIENT else self._account_in_a_row + 1
            self._note(now, failed=True)
            if until is not None or self._trips(fault):
                self._open(now, fault, until)

    def abandoned(self, leave: Pass, now: float) -> None:
        """The call ended without telling anything of the provider (its caller went away)."""
        if leave.generation == self._generation and self._state is State.HALF_OPEN:
            self._state = State.OPEN
            self._until = now

    def reset(self) -> None:
        """Closes it and forgets everything, by hand."""
        self._generation += 1
        self._forget()
        self._state, self._fault, self._step, self._ramp_began = State.CLOSED, None, -1, None

    def view(self, now: float) -> View:
        """Where it stands."""
        left = max(0.0, self._until - now) if self._state is State.OPEN else 0.0
        closed = self._state is State.CLOSED
        return View(self._state, self._fault, 0 if closed else self._step + 1, left)

    def _trips(self, fault: Fault) -> bool:
        policy = self.policy
        if fault is Fault.REVOKED:
            return True
        if fault is Fault.ACCOUNT:
            return self._account_in_a_row >= policy.consecutive
        if len(self._window) >= policy.window_calls:
            return self._failed_in_window >= policy.failure_rate * len(self._window)
        return self._in_a_row >= policy.consecutive

    def _open(self, now: float, fault: Fault, until: float | None) -> None:
        """Opens for the next step of the fault's ladder, or until the provider's own time."""
        kind = Fault.TRANSIENT if fault is Fault.TRANSIENT else Fault.ACCOUNT
        before = Fault.TRANSIENT if self._fault is Fault.TRANSIENT else Fault.ACCOUNT
        if self._fault is not None and kind is not before:
            self._step = -1
        if until is None:
            ladder = self.policy.ladder(fault)
            self._step = min(self._step + 1, len(ladder) - 1)
            cooldown = ladder[self._step]
        else:
            # The provider's own word is no sign that our guesses were too short.
            cooldown = max(0.0, until - now)
        self._until = now + cooldown * (1 + self.policy.jitter * self.chance())
        self._state, self._fault, self._ramp_began = State.OPEN, fault, None
        self._generation += 1
        self._forget()

    def _close(self, now: float) -> None:
        self._state = State.CLOSED
        self._generation += 1
        self._forget()
        # The step is forgotten only when the ramp is over: a provider that falls
        # over under its first real load has not recovered.
        self._ramp_began, self._credit = now, 1.0

    def _forget(self) -> None:
        self._window.clear()
        self._failed_in_window = self._in_a_row = self._account_in_a_row = 0

    def _note(self, now: float, *, failed: bool) -> None:
        self._window.append((now, failed))
        self._failed_in_window += failed
        while self._window[0][0] <= now - self.policy.window_seconds:
            self._failed_in_window -= self._window.popleft()[1]

    def _ramp_lets_through(self, now: float) -> bool:
        """Each call earns its share of a pass; sparse traffic after a pause gets one at once."""
        if self._ramp_began is None:
            return True
        policy = self.policy
        age = now - self._ramp_began
        if age >= policy.ramp_seconds:
            self._ramp_began, self._fault, self._step = None, None, -1
            return True
        self._credit += policy.ramp_start + (1 - policy.ramp_start) * age / policy.ramp_seconds
        if self._credit < 1:
            return False
        self._credit = min(self._credit - 1, 1.0)
        return True
