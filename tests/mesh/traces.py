"""What a mesh wrote about itself: spans in its trace files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = {
    "SPAN_KIND_SERVER": "server",
    "SPAN_KIND_CLIENT": "client",
    "SPAN_KIND_INTERNAL": "internal",
}


@dataclass(frozen=True, slots=True)
class Event:
    """A moment on a span."""

    name: str
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it was exported."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    events: tuple[Event, ...]
    links: tuple[str, ...]
    """Traces it links to."""
    failed: bool

    @property
    def moments(self) -> set[str]:
        """Names of its events."""
        return {event.name for event in self.events}


def spans(directories: Iterable[Path]) -> Iterator[Span]:
    """Every span in the trace files of directories; a line that is being written is left out."""
    for directory in directories:
        for path in [*directory.glob("*.jsonl"), *directory.glob("*.jsonl.1")]:
            for line in path.read_text().splitlines(keepends=True):
                if line.endswith("\n"):
                    yield from _batch(json.loads(line))


def _batch(content: dict[str, Any]) -> Iterator[Span]:
    for resource in content["resourceSpans"]:
        service = _attributes(resource["resource"])["service.name"]
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                yield Span(
                    service,
                    span["name"],
                    KINDS[span["kind"]],
                    span["traceId"],
                    span["spanId"],
                    span.get("parentSpanId", ""),
                    _attributes(span),
                    tuple(
                        Event(event["name"], _attributes(event)) for event in span.get("events", ())
                    ),
                    tuple(link["traceId"] for link in span.get("links", ())),
                    span.get("status", {}).get("code") == "STATUS_CODE_ERROR",
                )


def _attributes(holder: dict[str, Any]) -> dict[str, Any]:
    return {said["key"]: _value(said["value"]) for said in holder.get("attributes", ())}


def _value(said: dict[str, Any]) -> Any:
    ((kind, value),) = said.items()
    if kind == "arrayValue":
        return [_value(each) for each in value.get("values", ())]
    return value
