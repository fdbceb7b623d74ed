"""How many requests a process works on at once, who waits, and who is turned away.

More requests than a machine can work on make all of them late; beyond the knee a mesh that
takes everything answers nobody in time. So a process takes only as many at once as it answers
within the targets, lets a few wait for a moment, and turns the rest away at once, while they
can still go elsewhere.

The limit finds itself: a window of answers of which one in ten came later than its target
lowers it in proportion, a window in time that had used the limit up raises it by a tenth. The
target is fixed, unlike in Netflix' `concurrency-limits`, which compares with the fastest
answer seen: here that is an answer from the cache, a hundred times faster than any other.

Who waits gives up after a while; when there has been somebody waiting all of that while, the
overload is no burst: then patience is short and the newest goes first, whose caller is the
least likely to have given up (B. Maurer, "Fail at Scale", ACM Queue 13(8), 2015).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request. The kinds of a limiter stand in order of rank, first served first."""

    name: str
    cost: float = 1.0
    """Units of the limit that one takes; 0 for those that `at_once` bounds instead."""
    share: float = 1.0
    """Part of the limit that may be in use, this one counted, for one more to be let in."""
    target_seconds: float = 0.0
    """Within this it should be answered; 0 for those that tell nothing about the load."""
    at_once: int = 0
    """Most of this kind at once; 0 bounds them by the limit alone."""
    held: float = 1.0
    """Part of its cost that one still has when the rest of it is only passed on; see `lighten`."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How a limiter behaves. The limit is counted in units; see `Kind.cost`."""

    most: float
    least: float = 1.0
    start: float = 0.0
    """Where the limit begins; 0 means `most`."""
    adaptive: bool = True
    """Whether the limit moves; else it is `most`."""
    window_seconds: float = 0.5
    window_samples: int = 10
    """A window lasts until it has so many answers, but at most ten times its length."""
    late_share: float = 0.1
    """Part of a window's answers that may come later than their target."""
    growth: float = 1.1
    """What the limit is raised by; cubed while even the late ones have half of their time left."""
    deepest_cut: float = 0.5
    patience_seconds: float = 0.5
    """How long a request waits for a place."""
    short_patience_seconds: float = 0.2
    """The same while there has been somebody waiting for longer than `patience_seconds`."""
    waiting: int = 1_000
    """Most that wait; one more is turned away."""


@dataclass(eq=False, slots=True)
class Ticket:
    """Somebody who waits for a place."""

    kind: Kind
    until: float
    """When its patience ends, on the limiter's clock."""


@dataclass(slots=True)
class _Window:
    began: float
    lateness: list[float] = field(default_factory=list)
    """Seconds through target of each answer."""
    used_up: bool = False
    """Whether somebody found no place."""


class Limiter:
    """Decides who is let in. No clock and no waiting of its own.

    Args:
        kinds: In order of rank.
        policy: See there.
        now: Seconds on any clock that does not go back.
    """

    def __init__(self, kinds: Sequence[Kind], policy: Policy, now: float) -> None:
        self._policy = policy
        self.limit = (policy.adaptive and policy.start) or policy.most
        """Units that may be in use at once."""
        self.in_use = 0.0
        self._active = {kind.name: 0 for kind in kinds}
        self._queues: dict[str, deque[Ticket]] = {kind.name: deque() for kind in kinds}
        self._waiting_since: float | None = None
        self._window = _Window(now)

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, self._queues.values()))

    def enter(self, kind: Kind) -> bool:
        """Takes a place, when there is one and nobody of the same or a higher rank waits."""
        if self._waits_before(kind) or not self._fits(kind):
            self._window.used_up |= not self._full(kind)
            return False
        self._take(kind)
        return True

    def wait(self, kind: Kind, now: float) -> Ticket | None:
        """A ticket that `leave` and `observe` may hand a place; None when too many wait."""
        policy = self._policy
        if len(self) >= policy.waiting:
            return None
        if self._waiting_since is None:
            self._waiting_since = now
        patience = (
            policy.short_patience_seconds if self._overloaded(now) else policy.patience_seconds
        )
        ticket = Ticket(kind, now + patience)
        self._queues[kind.name].append(ticket)
        return ticket

    def withdraw(self, ticket: Ticket, now: float) -> list[Ticket]:
        """Forgets somebody who no longer waits; see `leave` for what it returns."""
        self._queues[ticket.kind.name].remove(ticket)
        # Whom it stood in front of may fit where it did not.
        return self._let_in(now)

    def lighten(self, kind: Kind, now: float) -> list[Ticket]:
        """Notes that the work on one is done but for passing on what somebody else writes.

        Returns:
            Those who now have a place.
        """
        self.in_use -= kind.cost * (1 - kind.held)
        return self._let_in(now)

    def leave(self, kind: Kind, now: float, *, light: bool = False) -> list[Ticket]:
        """Gives a place back, one that was lightened or a whole one; returns who now have one."""
        self._active[kind.name] -= 1
        self.in_use -= kind.cost * kind.held if light else kind.cost
        if not any(self._active.values()):
            self.in_use = 0.0
        return self._let_in(now)

    def observe(self, kind: Kind, seconds: float, now: float) -> list[Ticket]:
        """Notes how long one took; at the end of a window the limit moves.

        Returns:
            Those who now have a place.
        """
        if not kind.target_seconds or not self._policy.adaptive:
            return []
        window, policy = self._window, self._policy
        window.lateness.append(seconds / kind.target_seconds)
        age = now - window.began
        if age < policy.window_seconds or (
            len(window.lateness) < policy.window_samples and age < 10 * policy.window_seconds
        ):
            return []
        self._window = _Window(now)
        latest = sorted(window.lateness)[int(len(window.lateness) * (1 - policy.late_share))]
        if latest > 1.0:
            self.limit = max(policy.least, self.limit * max(policy.deepest_cut, 1.0 / latest))
        elif window.used_up:
            growth = policy.growth if latest > 0.5 else policy.growth**3
            self.limit = min(policy.most, self.limit * growth)
        return self._let_in(now)

    def _let_in(self, now: float) -> list[Ticket]:
        admitted = []
        for queue in self._queues.values():
            while queue and self._fits(queue[0].kind):
                ticket = queue.pop() if self._overloaded(now) else queue.popleft()
                self._take(ticket.kind)
                admitted.append(ticket)
            if queue and not self._full(queue[0].kind):
                break
        if not len(self):
            self._waiting_since = None
        return admitted

    def _overloaded(self, now: float) -> bool:
        since = self._waiting_since
        return since is not None and now - since > self._policy.patience_seconds

    def _waits_before(self, kind: Kind) -> bool:
        for name, queue in self._queues.items():
            if name == kind.name:
                return bool(queue)
            # A kind that has used up its own number holds up nobody else.
            if queue and not self._full(queue[0].kind):
                return True
        return False

    def _full(self, kind: Kind) -> bool:
        return bool(kind.at_once) and self._active[kind.name] >= kind.at_once

    def _fits(self, kind: Kind) -> bool:
        if self._full(kind):
            return False
        # A limit below the cost of a request still serves one after the other.
        return self.in_use + kind.cost <= self.limit * kind.share or not self.in_use

    def _take(self, kind: Kind) -> None:
        self._active[kind.name] += 1
        self.in_use += kind.cost
