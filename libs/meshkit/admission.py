"""Who is let in: the limiter of `meshkit.resilience.admission` with a clock and waiting.

Questions go before bulk: a call of an upload's way is let in only while half of the limit is
free. Whoever follows a document for hours takes no call's place.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from functools import cached_property
from math import inf

from meshkit import deadline
from meshkit.errors import RETRY_SECONDS, Busy
from meshkit.resilience.admission import Kind, Limiter, Policy, Ticket
from meshkit.telemetry.metrics import admission_limit, admission_refused, admission_waited

BULK_SHARE = 0.5
BULK_METHODS = frozenset(
    {
        "ExportProject",
        "IndexChunks",
        "RebuildLexicalIndex",
        "ReprocessDocument",
        "ScanChunks",
        "UploadDocument",
    }
)
"""RPCs on a document's way and of administration: nobody waits for them at a screen."""
TARGET_SECONDS = {"Answer": 1.9, "Search": 0.8}
"""By RPC, to the first message: twice what the gateway aims at, and what a follow-up takes to be
completed. The gateway's limit binds callers from outside; these, callers that come past it."""
HELD = 0.125
"""Of its place, for a stream whose text has begun to come."""
FIRST_LIMIT = 16
"""Calls at once that a service begins with where its limit adapts."""
LEAST_LIMIT = 8
"""What it never falls below. A search that waits for a dead cross-encoder is late without any
load; with a limit of one the mesh would stand still until somebody mends it."""


class Place:
    """A place that somebody has. Give it back with `leave`, once or more often."""

    __slots__ = ("_admission", "_answered", "_began", "_kind", "_left", "_light")

    def __init__(self, admission: Admission, kind: Kind) -> None:
        self._admission = admission
        self._kind = kind
        self._began = time.monotonic()
        self._answered = False
        self._left = False
        self._light = False

    def excuse(self, seconds: float) -> None:
        """Notes that it may be later by so much without a sign of load here.

        Somebody else's work comes first, such as a remote model that completes a question.
        """
        self._began += seconds

    def answered(self) -> None:
        """Notes that the first words of the answer are there; only the first time counts.

        What follows them is as slow as a model writes and says nothing about the load here.
        """
        if not self._answered:
            self._answered = True
            self._admission.observe(self._kind, max(0.0, time.monotonic() - self._began))

    def written(self) -> None:
        """Notes that text comes, which is only passed on: all but `Kind.held` is given back.

        While a remote model writes for seconds there is next to nothing to do here, and whoever
        could be searched for meanwhile need not wait.
        """
        if not self._light and not self._left:
            self._light = True
            self._admission.lighten(self._kind)

    def leave(self) -> None:
        """Gives the place to whoever waits."""
        if not self._left:
            self._left = True
            self._admission.leave(self._kind, light=self._light)


class Admission:
    """Lets requests in, or not.

    Args:
        kinds: What is let in, in order of rank.
        policy: How the limit behaves.
    """

    def __init__(self, kinds: Sequence[Kind], policy: Policy) -> None:
        self._limiter = Limiter(kinds, policy, time.monotonic())
        self._waiting: dict[Ticket, asyncio.Future[None]] = {}
        admission_limit.set(self._limiter.limit)

    async def enter(self, kind: Kind) -> Place:
        """A place, at once or after a moment's wait.

        Raises:
            Busy: SERVICE_BUSY.
        """
        now = time.monotonic()
        if not self._limiter.enter(kind):
            await self._wait(kind, now)
        return Place(self, kind)

    async def _wait(self, kind: Kind, now: float) -> None:
        ticket = self._limiter.wait(kind, now)
        if ticket is None:
            raise _refused(kind)
        place = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = place
        patience, left = ticket.until - now, deadline.remaining()
        try:
            await asyncio.wait({place}, timeout=patience if left is None else min(patience, left))
        except asyncio.CancelledError:
            if place.done():
                self.leave(kind)
            else:
                self._give_up(ticket)
            raise
        admission_waited.record(time.monotonic() - now, {"kind": kind.name})
        if not place.done():
            self._give_up(ticket)
            raise _refused(kind)

    def _give_up(self, ticket: Ticket) -> None:
        del self._waiting[ticket]
        self._hand_out(self._limiter.withdraw(ticket, time.monotonic()))

    def leave(self, kind: Kind, *, light: bool = False) -> None:
        """Takes a place back; see `Place.leave`."""
        self._hand_out(self._limiter.leave(kind, time.monotonic(), light=light))

    def lighten(self, kind: Kind) -> None:
        """Takes most of a place back; see `Place.written`."""
        self._hand_out(self._limiter.lighten(kind, time.monotonic()))

    def observe(self, kind: Kind, seconds: float) -> None:
        """Notes how long one took; see `Place.answered`."""
        before = self._limiter.limit
        self._hand_out(self._limiter.observe(kind, seconds, time.monotonic()))
        if self._limiter.limit != before:
            admission_limit.set(self._limiter.limit)

    def _hand_out(self, admitted: list[Ticket]) -> None:
        for ticket in admitted:
            self._waiting.pop(ticket).set_result(None)


def _refused(kind: Kind) -> Busy:
    admission_refused.add(1, {"kind": kind.name})
    # Those who are turned away together must not come back together.
    again = RETRY_SECONDS * random.uniform(1.0, 4.0)  # noqa: S311
    return Busy(
        "SERVICE_BUSY", "The service is at its limit; try again shortly.", retry_after=again
    )


class CallAdmission:
    """Admission to a gRPC service, by the names of its methods.

    Args:
        calls: Calls served at once, at most.
        watches: Streams of methods named `Watch...` served beside them; 0 counts them as calls.
        adaptive: Whether the limit follows the time that calls take.
    """

    def __init__(self, calls: int, watches: int, *, adaptive: bool) -> None:
        self._call, self._bulk = Kind("call"), Kind("bulk", share=BULK_SHARE)
        self._timed = {
            name: Kind(name.lower(), target_seconds=seconds, held=HELD)
            for name, seconds in TARGET_SECONDS.items()
        }
        self._adaptive = adaptive
        self._watch = Kind("watch", cost=0.0, share=inf, at_once=watches) if watches else self._call
        self._calls = calls
        self._kinds: dict[str, Kind] = {}

    def register(self, method: str) -> None:
        """Makes `/package.Service/Method` known, before the first call of any."""
        name = method.rpartition("/")[2]
        if name.startswith("Watch"):
            kind = self._watch
        else:
            kind = self._timed.get(name) or (self._bulk if name in BULK_METHODS else self._call)
        self._kinds[method] = kind

    @cached_property
    def _admission(self) -> Admission:
        kinds = dict.fromkeys((self._watch, self._call, *self._timed.values(), self._bulk))
        timed = any(kind.target_seconds for kind in self._kinds.values())
        start = min(self._calls, FIRST_LIMIT) if timed else self._calls
        least = min(self._calls, LEAST_LIMIT)
        policy = Policy(self._calls, least=least, start=start, adaptive=self._adaptive)
        return Admission(list(kinds), policy)

    async def enter(self, method: str) -> Place:
        """A place for a call of a registered method.

        Raises:
            Busy: SERVICE_BUSY.
        """
        return await self._admission.enter(self._kinds[method])
