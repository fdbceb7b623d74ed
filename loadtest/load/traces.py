"""Where the time of an answer goes, from the spans that the mesh wrote.

Reads OTLP's JSON lines (`meshkit.telemetry.file_exporter`). A span's own time is what no
child of it covers: own times of a trace add up to its length where nothing runs in parallel.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench.statistics import percentile

ROOT = "POST /v1/answers"


@dataclass(frozen=True, slots=True)
class Span:
    """One span; times in seconds since 1970."""

    trace: str
    id: str
    parent: str
    service: str
    name: str
    begins: float
    ends: float


@dataclass(frozen=True, slots=True)
class Hop:
    """One kind of span in the traces of answers."""

    service: str
    name: str
    per_answer: float
    """How often it comes in one answer, on average."""
    own_ms: float
    """Own time in one answer, on average; of all its spans together."""
    p50_ms: float
    """Of the length of one span."""
    p95_ms: float


def read(folder: Path) -> list[Span]:
    """The spans of every file below a folder."""
    return [
        span
        for path in sorted(folder.glob("*.jsonl*"))
        for line in path.read_text().splitlines()
        if line
        for span in _spans(line)
    ]


def _spans(line: str) -> Iterator[Span]:
    for resource in json.loads(line).get("resourceSpans", []):
        attributes = {
            each["key"]: each["value"].get("stringValue", "")
            for each in resource["resource"]["attributes"]
        }
        service = attributes.get("service.name", "").removeprefix("citemesh-")
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                # Stages stand beside the calls they made, and would count their time twice.
                if span["name"].startswith("answer."):
                    continue
                yield Span(
                    span["traceId"],
                    span["spanId"],
                    span.get("parentSpanId", ""),
                    service,
                    span["name"],
                    int(span["startTimeUnixNano"]) / 1e9,
                    int(span["endTimeUnixNano"]) / 1e9,
                )


def hops(
    spans: Sequence[Span], begins: float = 0.0, ends: float = float("inf"), root: str = ROOT
) -> list[Hop]:
    """What the answers that began in a stretch of time consist of, the most costly first."""
    traces: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        traces[span.trace].append(span)
    chosen = [
        found
        for found in traces.values()
        if any(s.name == root and begins <= s.begins < ends for s in found)
    ]
    lengths: dict[tuple[str, str], list[float]] = defaultdict(list)
    own: dict[tuple[str, str], float] = defaultdict(float)
    for found in chosen:
        children: dict[str, list[Span]] = defaultdict(list)
        for span in found:
            children[span.parent].append(span)
        for span in found:
            key = (span.service, span.name)
            lengths[key].append((span.ends - span.begins) * 1e3)
            own[key] += own_seconds(span, children[span.id]) * 1e3
    return sorted(
        (
            Hop(
                *key,
                len(values) / len(chosen),
                own[key] / len(chosen),
                percentile(values, 0.5),
                percentile(values, 0.95),
            )
            for key, values in lengths.items()
        ),
        key=lambda hop: -hop.own_ms,
    )


def own_seconds(span: Span, children: Iterable[Span]) -> float:
    """Time of a span that no child covers; children may overlap and outlast it."""
    covered, until = 0.0, span.begins
    for child in sorted(children, key=lambda each: each.begins):
        begins, ends = max(child.begins, until), min(child.ends, span.ends)
        if ends > begins:
            covered += ends - begins
            until = ends
    return span.ends - span.begins - covered
