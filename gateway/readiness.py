"""Whether the mesh can answer: asked of every service, remembered for a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from gateway.operations import Breaker, Breakers

Check = Callable[[], Awaitable[bool]]
"""Says whether a part is there; may raise nothing but cancellation."""


@dataclass(frozen=True, slots=True)
class Report:
    """What is there and what is not."""

    parts: Mapping[str, bool]
    required: frozenset[str]
    breakers: tuple[Breaker, ...] = ()
    """Those that are not closed. A provider that is down makes nothing unready: another one,
    or the local models, stand in, and what is poorer each answer says itself."""

    @property
    def missing(self) -> list[str]:
        """Parts without which requests fail."""
        return sorted(n for n, there in self.parts.items() if not there and n in self.required)

    @property
    def degraded(self) -> list[str]:
        """Parts without which answers are poorer."""
        return sorted(n for n, there in self.parts.items() if not there and n not in self.required)


class Readiness:
    """Asks every part at once and remembers the report, however many ask."""

    def __init__(self, *, timeout: float = 1.0, remember_seconds: float = 1.0) -> None:
        self._checks: dict[str, Check] = {}
        self._required: set[str] = set()
        self._timeout = timeout
        self._remember_seconds = remember_seconds
        self._report: Report | None = None
        self._until = 0.0
        self._asking = asyncio.Lock()
        self._breakers: Callable[[], Awaitable[Breakers]] | None = None
        self.draining = False

    def add(self, name: str, check: Check, *, required: bool) -> None:
        """Adds a part."""
        self._checks[name] = check
        if required:
            self._required.add(name)
        self._until = 0.0

    def watch_breakers(self, ask: Callable[[], Awaitable[Breakers]]) -> None:
        """Shows the breakers that `ask` finds."""
        self._breakers = ask
        self._until = 0.0

    async def report(self) -> Report:
        """The state of every part, at most a second old."""
        async with self._asking:
            if self._report is None or time.monotonic() >= self._until:
                names = list(self._checks)
                resting = asyncio.create_task(self._resting())
                found = await asyncio.gather(*(self._ask(self._checks[name]) for name in names))
                parts = dict(zip(names, found, strict=True))
                self._report = Report(parts, frozenset(self._required), await resting)
                self._until = time.monotonic() + self._remember_seconds
            return self._report

    async def _resting(self) -> tuple[Breaker, ...]:
        if self._breakers is None:
            return ()
        try:
            report = await asyncio.wait_for(self._breakers(), self._timeout)
        except TimeoutError:
            return ()
        return tuple(found for found in report.found if found.state != "closed")

    async def _ask(self, check: Check) -> bool:
        try:
            return await asyncio.wait_for(check(), self._timeout)
        except TimeoutError:
            return False
