"""Spending a provider's quota before it has to refuse.

A provider counts requests and tokens by the minute and requests by the day. What
is asked for here comes out of buckets that are filled so slowly that no minute
can hold more than the quota, wherever the provider's minutes begin.

Who waits is served in turns: the lanes by weight (a question before ten batches
of an upload), within a lane the projects one after the other.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

MINUTE = 60.0
BURST_SHARE = 0.1
"""Part of a minute's quota that may go at once; the rest drips."""

T = TypeVar("T")


class Bucket:
    """Lets at most `per_minute` through in any sixty seconds.

    A bucket that holds B and is filled at R a second lets B + 60 R through in the
    worst minute, so both come out of the quota.

    Args:
        per_minute: The quota, above 0.
        now: Seconds on any clock that does not go back.
    """

    def __init__(self, per_minute: float, now: float) -> None:
        if per_minute <= 0:
            raise ValueError("a quota must be above 0")
        self.size = per_minute * BURST_SHARE
        self._rate = per_minute * (1 - BURST_SHARE) / MINUTE
        self._level = self.size
        self._at = now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` is there; 0 means now.

        More than the bucket holds is let through when it is full, and leaves a
        debt: a single request may be larger than a tenth of a minute's tokens.
        """
        self._fill(now)
        missing = min(amount, self.size) - self._level
        # A billionth less than the amount is rounding, not a wait.
        return 0.0 if missing <= amount * 1e-9 else missing / self._rate

    def take(self, amount: float, now: float) -> None:
        """Takes out what `wait` found there; may leave a debt."""
        self._fill(now)
        self._level -= amount

    def give_back(self, amount: float, now: float) -> None:
        """Returns what was estimated and not used."""
        self._fill(now)
        self._level = min(self.size, self._level + amount)

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._level = min(self.size, self._level + (now - self._at) * self._rate)
            self._at = now


class DayCount:
    """Counts requests of a day that begins at a fixed time of the clock.

    Args:
        per_day: The quota.
        offset: Seconds between midnight in UTC and the start of the provider's day.
    """

    def __init__(self, per_day: int, offset: float = 0.0) -> None:
        self._per_day = per_day
        self._offset = offset
        self._day = -1
        self._used = 0

    def wait(self, unix: float) -> float:
        """Seconds until a request may go: 0, or the rest of the day."""
        day, into = divmod(unix - self._offset, 86_400.0)
        if int(day) != self._day:
            self._day, self._used = int(day), 0
        return 0.0 if self._used < self._per_day else 86_400.0 - into

    def take(self, unix: float) -> None:
        """Counts a request."""
        self.wait(unix)
        self._used += 1


class Lane(StrEnum):
    """What a call is for."""

    QUESTION = "question"
    BULK = "bulk"


@dataclass(slots=True)
class _Projects(Generic[T]):
    """The waiting of one lane: a queue a project, projects in turn."""

    queues: OrderedDict[str, deque[T]] = field(default_factory=OrderedDict)
    served: float = 0.0
    """What the lane was served so far, divided by its weight."""


class Turns(Generic[T]):
    """Who is next: lanes by weight, the projects of a lane one after the other.

    Args:
        weights: How many turns a lane gets for one of a lane of weight 1.
    """

    def __init__(self, weights: Sequence[tuple[Lane, float]]) -> None:
        self._weights = dict(weights)
        self._lanes: dict[Lane, _Projects[T]] = {lane: _Projects() for lane in self._weights}

    def __len__(self) -> int:
        return sum(len(q) for lane in self._lanes.values() for q in lane.queues.values())

    def add(self, lane: Lane, project: str, waiting: T) -> None:
        """Puts somebody at the end of the project's queue."""
        projects = self._lanes[lane]
        if not projects.queues:
            # A lane that was idle does not come back with turns saved up.
            busy = [other.served for other in self._lanes.values() if other.queues]
            projects.served = max([projects.served, min(busy, default=0.0)])
        projects.queues.setdefault(project, deque()).append(waiting)

    def next(self) -> T | None:
        """Who is served next, without taking them out."""
        found = self._next()
        return None if found is None else found[2][0]

    def pop(self) -> T:
        """Takes out who is next, and counts the turn.

        Raises:
            IndexError: when nobody waits.
        """
        found = self._next()
        if found is None:
            raise IndexError("nobody waits")
        lane, project, queue = found
        projects = self._lanes[lane]
        waiting = queue.popleft()
        projects.served += 1 / self._weights[lane]
        del projects.queues[project]
        if queue:
            projects.queues[project] = queue
        return waiting

    def remove(self, lane: Lane, project: str, waiting: T) -> None:
        """Takes out somebody who no longer waits; does nothing when they are not there."""
        queue = self._lanes[lane].queues.get(project)
        if queue is None or waiting not in queue:
            return
        queue.remove(waiting)
        if not queue:
            del self._lanes[lane].queues[project]

    def _next(self) -> tuple[Lane, str, deque[T]] | None:
        busy = [lane for lane, projects in self._lanes.items() if projects.queues]
        if not busy:
            return None
        lane = min(busy, key=lambda lane: self._lanes[lane].served)
        project, queue = next(iter(self._lanes[lane].queues.items()))
        return lane, project, queue
