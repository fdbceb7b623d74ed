"""The time of day a process goes by: the machine's clock, unless somebody has just set it.

A machine's clock is set while processes run: by NTP after a boot, by a host that lets a paused
machine go on, by hand; now and then to a wrong time, for a moment or for good. Signed contexts are
refused when two processes do not agree about the time, so a process goes on by its monotonic
clock, and follows the machine's when that is not plainly wrong; see `Clock.look`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import Enum

from meshkit.logging import logger

log = logger(__name__)

STEP_SECONDS = 2.0
"""A difference of less is followed at once."""
LEEWAY_SECONDS = 30.0
"""By how much two clocks may differ that agree."""
AGREED_SECONDS = 10.0
"""How long a machine's clock must have kept a new time that an authority confirms."""
ALONE_SECONDS = 60.0
"""The same where no authority says which of the two is right."""
LOOK_SECONDS = 1.0
ASK_SECONDS = 10.0
"""How often an authority is asked that is not needed."""


def running_seconds() -> float:
    """A clock that nobody sets, and that goes on while the machine is suspended."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Doubt(Enum):
    """What `Clock.look` makes of the machine's clock."""

    NONE = "none"
    BEGUN = "begun"
    LASTING = "lasting"
    OVER = "over"
    """The machine's clock is back where it was."""
    FOLLOWED = "followed"


class Clock:
    """Seconds since 1970 that a step of the machine's clock does not reach at once.

    Args:
        wall: The machine's clock.
        running: Seconds that go by, whatever happens to `wall`.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        running: Callable[[], float] = running_seconds,
    ) -> None:
        self._wall = wall
        self._running = running
        self._offset = wall() - running()
        self._doubted: tuple[float, float] | None = None
        """How far the machine's clock was off when it was first seen to be, and when that was."""

    def now(self) -> float:
        """The time this process goes by."""
        return self._running() + self._offset

    @property
    def step(self) -> float:
        """Seconds by which the machine's clock is ahead of this one."""
        return self._wall() - self.now()

    @property
    def doubtful(self) -> bool:
        """Whether the machine's clock was set and is not followed yet."""
        return self._doubted is not None

    def look(self, authority: float | None = None) -> Doubt:
        """Compares with the machine's clock, and follows it unless it was just set.

        A new time is followed after `AGREED_SECONDS` when the authority's is near it, never
        while the authority's is near the old one, and after `ALONE_SECONDS` when there is no
        authority or it is near neither.

        Args:
            authority: The time by a clock on another machine, read just now.
        """
        step, running = self.step, self._running()
        if abs(step) < STEP_SECONDS:
            self._offset += step
            before, self._doubted = self._doubted, None
            return Doubt.OVER if before else Doubt.NONE
        if self._doubted is None or abs(step - self._doubted[0]) >= STEP_SECONDS:
            self._doubted = step, running
            return Doubt.BEGUN
        if running - self._doubted[1] < self._patience(authority):
            return Doubt.LASTING
        self._offset += step
        self._doubted = None
        return Doubt.FOLLOWED

    def _patience(self, authority: float | None) -> float:
        if authority is None:
            return ALONE_SECONDS
        ours, machines = abs(authority - self.now()), abs(authority - self._wall())
        if min(ours, machines) > LEEWAY_SECONDS:
            return ALONE_SECONDS
        return AGREED_SECONDS if machines < ours else float("inf")


_clock = Clock()


def now() -> float:
    """Seconds since 1970 by this process's clock."""
    return _clock.now()


async def watch(
    ask: Callable[[], Awaitable[float | None]],
    tell: Callable[[bool], Awaitable[None]],
    clock: Clock = _clock,
) -> None:
    """Looks every second; runs until cancelled.

    Args:
        ask: The time by another machine's clock; None when it cannot be told.
        tell: Called with whether this process's clock can be relied on, when that changes.
        clock: What to keep.
    """
    relied, astray, asked = True, False, float("-inf")
    while True:
        if clock.doubtful or running_seconds() - asked >= ASK_SECONDS:
            asked, authority = running_seconds(), await ask()
        else:
            authority = None
        step = clock.step
        _log(clock.look(authority), step)
        if authority is not None:
            astray = abs(authority - clock.now()) > LEEWAY_SECONDS
        if relied == (clock.doubtful or astray):
            relied = not relied
            await tell(relied)
        await asyncio.sleep(LOOK_SECONDS)


def _log(doubt: Doubt, step: float) -> None:
    if doubt is Doubt.BEGUN:
        log.warning("the machine's clock was set; its old time is kept", seconds=round(step))
    elif doubt is Doubt.FOLLOWED:
        log.warning("the machine's new time is followed", seconds=round(step))
    elif doubt is Doubt.OVER:
        log.warning("the machine's clock is back")
