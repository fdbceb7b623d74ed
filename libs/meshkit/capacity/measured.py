"""What a report of `make load` says about costs and times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VERSION = 1
NOT_THE_MESH = frozenset({"generator", "simulator", "machine"})
ENOUGH = 8
"""Answers of a class, below which its latency says nothing."""


class ReportInvalid(Exception):
    """A file that is no report this version can read; the text says why."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one class of request, in seconds."""

    mean: float
    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Step:
    """A stretch of a run: what was completed and what it took."""

    name: str
    seconds: float
    per_second: Mapping[str, float]
    """Completed requests by class."""
    offered_per_second: float
    """Requests that were due, of every track."""
    cores: Mapping[str, float]
    """By service; `machine` is everything that ran, `generator` and `simulator` are the load's."""
    latency: Mapping[str, Latency]
    counts: Mapping[str, float]

    @property
    def mesh_cores(self) -> float:
        """Cores of the mesh alone."""
        return sum(used for name, used in self.cores.items() if name not in NOT_THE_MESH)

    @property
    def other_cores(self) -> float:
        """Cores of everything else on the machine."""
        return max(0.0, self.cores.get("machine", 0.0) - self.mesh_cores)


@dataclass(frozen=True, slots=True)
class Measured:
    """One report, as far as the model needs it."""

    scenario: str
    cores: int
    """Of the machine."""
    commit: str
    demands: Mapping[str, Mapping[str, float]]
    """Processor seconds of a request, by class and service of the mesh."""
    idle: Mapping[str, float]
    """Cores by service without any request."""
    rest: Step
    """Requests alone: latency without a queue."""
    rest_latency: Mapping[str, Latency]
    steps: tuple[Step, ...]
    at_peak: str
    answer_tokens_in: float
    answer_tokens_out: float
    answer_cost_usd: float
    documents: int
    memory_mb: Mapping[str, float] = field(default_factory=dict)

    @property
    def peak(self) -> Step:
        """The step the report is about."""
        return next(step for step in self.steps if step.name == self.at_peak)

    @property
    def mix(self) -> dict[str, float]:
        """Shares of the classes at the peak."""
        total = sum(self.peak.per_second.values())
        return {name: rate / total for name, rate in self.peak.per_second.items()}

    @classmethod
    def of(cls, report: Any) -> Measured:
        """Reads a report.

        Raises:
            ReportInvalid: naming what is missing.
        """
        version = report.get("version") if isinstance(report, Mapping) else None
        if version != VERSION:
            raise ReportInvalid(f"It has version {version}, and {VERSION} is what can be read.")
        try:
            return cls._of(report)
        except (KeyError, TypeError, StopIteration, ValueError) as error:
            raise ReportInvalid(f"It is not complete: {error!r} is missing.") from error

    @classmethod
    def _of(cls, report: Mapping[str, Any]) -> Measured:
        alone = [_step(step) for step in report["preparation"]]
        rest = next(step for step in alone if step.name == "ask alone")
        latency: dict[str, Latency] = {}
        for step in (*alone, _step(_named(report, report["at_rest"]))):
            for name, found in step.latency.items():
                if step.counts.get(name, 0) >= ENOUGH:
                    latency.setdefault(name, found)
        providers = report["providers"]
        measured = cls(
            scenario=report["scenario"],
            cores=int(report["environment"]["cores"]),
            commit=str(report["environment"].get("commit", "")),
            demands={
                name: {s: float(v) for s, v in values.items() if s not in NOT_THE_MESH}
                for name, values in report["demands"].items()
            },
            idle={s: float(v) for s, v in report["idle_cores"].items() if s not in NOT_THE_MESH},
            rest=rest,
            rest_latency=latency,
            steps=tuple(_step(step) for step in report["steps"]),
            at_peak=report["at_peak"],
            answer_tokens_in=float(providers["input_tokens"]),
            answer_tokens_out=float(providers["output_tokens"]),
            answer_cost_usd=float(providers["cost_usd"]),
            documents=int(report["documents"]),
            memory_mb={name: float(each["most_mb"]) for name, each in report["memory"].items()},
        )
        if "answer" not in measured.rest_latency or "answer" not in measured.demands:
            raise ValueError("a latency and a demand of answers")
        return measured


def _named(report: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(step for step in report["steps"] if step["name"] == name)
    return found


def _step(values: Mapping[str, Any]) -> Step:
    seconds = float(values["seconds"])
    return Step(
        name=values["name"],
        seconds=seconds,
        per_second={name: count / seconds for name, count in values["classes"].items()},
        offered_per_second=values["offered_per_s"] + values["other_tracks"]["offered_per_s"],
        cores={name: float(used) for name, used in values["cores"].items()},
        latency={
            name: Latency(found["mean"] / 1e3, found["p50"] / 1e3, found["p95"] / 1e3)
            for name, found in values["latency_by_class"].items()
            if found["mean"] is not None
        },
        counts=values["classes"],
    )
