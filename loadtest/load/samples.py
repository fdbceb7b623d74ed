"""What is noted of each request, and the file it is noted in: one JSON object a line. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from loadtest.load.mix import QUESTIONS, Action


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Times are seconds since 1970; 0 means that it did not happen."""

    step: str
    track: str
    """`main`, or whose load it was besides."""
    kind: str
    due: float
    """When it should have been sent. Latency counts from here: a generator or a
    connection that was late is waiting, too."""
    sent: float
    first: float = 0.0
    """First piece of the answer's text."""
    end: float = 0.0
    reason: str = ""
    """Why it failed; empty when it did not."""
    degraded: tuple[str, ...] = ()
    cache: str = ""
    provider: str = ""
    right: bool | None = None
    """Whether a citation names the right document; None where there is none to name."""
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0

    @property
    def total(self) -> float:
        """Seconds from when it was due to its end."""
        return self.end - self.due

    @property
    def to_first(self) -> float:
        """Seconds from when it was due to its first text; the whole time without a stream."""
        return (self.first or self.end) - self.due

    @property
    def ok(self) -> bool:
        """Whether it was answered."""
        return not self.reason

    @property
    def demand_class(self) -> str:
        """What it costs the mesh: a cached answer is another thing than a new one."""
        if self.kind in QUESTIONS:
            return "cached_answer" if self.cache not in ("", "none") else "answer"
        return self.kind


def begun(action: Action, step: str, track: str, due: float, sent: float) -> Sample:
    """A request that was just sent."""
    return Sample(step, track, action.kind, due, sent)


def answered(sample: Sample, action: Action, done: Mapping[str, Any]) -> Sample:
    """The sample with what a complete answer says, as REST's JSON has it."""
    titles = {found["title"] for found in done["citations"]}
    return replace(
        sample,
        degraded=tuple(done["degraded"]),
        cache=done["cache"],
        provider=done["provider"],
        right=action.topic in titles,
        tokens_in=done["usage"]["input_tokens"],
        tokens_out=done["usage"]["output_tokens"],
        cost_usd=done["cost_usd"],
    )


def searched(sample: Sample, action: Action, found: Mapping[str, Any]) -> Sample:
    """The sample with what a search says: right is a right document among the first ten."""
    titles = {hit["title"] for hit in found["hits"]}
    return replace(sample, degraded=tuple(found["degraded"]), right=action.topic in titles)


def write(file: TextIO, sample: Sample) -> None:
    """Appends a sample."""
    file.write(json.dumps(asdict(sample), separators=(",", ":")) + "\n")


def read(path: Path) -> list[Sample]:
    """Every sample of a file."""
    return list(_read(path.read_text().splitlines()))


def _read(lines: Iterable[str]) -> Iterator[Sample]:
    for line in lines:
        values = json.loads(line)
        values["degraded"] = tuple(values["degraded"])
        yield Sample(**values)
