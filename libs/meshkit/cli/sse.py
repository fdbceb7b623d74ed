"""Server-sent events: lines in, events out (WHATWG HTML, section 9.2.6)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream."""

    name: str
    data: str

    def json(self) -> dict[str, Any]:
        """Its data, which is a JSON object."""
        content = json.loads(self.data)
        if not isinstance(content, dict):
            raise TypeError(f"event {self.name} carries no object")
        return content


@dataclass(slots=True)
class Parser:
    """Collects the lines of one event; has no I/O."""

    name: str = ""
    data: list[str] = field(default_factory=list)

    def feed(self, line: str) -> Event | None:
        """Takes the next line (without its end); returns the event that it completes."""
        if not line:
            event = Event(self.name or "message", "\n".join(self.data)) if self.data else None
            self.name, self.data = "", []
            return event
        field_name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field_name == "event":
            self.name = value
        elif field_name == "data":
            self.data.append(value)
        return None


def events(lines: Iterable[str]) -> Iterator[Event]:
    """The events of a stream of lines."""
    parser = Parser()
    for line in lines:
        if event := parser.feed(line):
            yield event


async def async_events(lines: AsyncIterator[str]) -> AsyncIterator[Event]:
    """As `events`, for an event loop."""
    parser = Parser()
    async for line in lines:
        if event := parser.feed(line):
            yield event
