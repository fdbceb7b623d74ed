"""How the other providers fare beside a fault: their stages, with and without it, in turn."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import httpx

from loadtest.bench.statistics import Summary, summary
from loadtest.faults.asking import ask, clear
from loadtest.simulator.running import RunningSimulator

STAGES = {"embed": "embed", "search": "rerank", "generate": "generate"}
"""Stages of an answer and whose operation they wait for; a search waits for the scores."""
FAULTS = {"embed": "gemini", "rerank": "cohere", "generate": "anthropic"}


@dataclass(frozen=True, slots=True)
class Beside:
    """One stage beside a fault of another provider."""

    fault: str
    stage: str
    without: Summary
    beside: Summary

    @property
    def holds(self) -> bool:
        """Whether it is no slower than the run without the fault can be."""
        return self.beside.low <= self.without.high

    def row(self) -> str:
        """A line of the table."""
        verdict = "" if self.holds else "  SLOWER"
        return f"{self.fault:24} {self.stage:10} {self.without}   beside it {self.beside}{verdict}"


def measure(http: httpx.Client, providers: RunningSimulator, rounds: int) -> list[Beside]:
    """Answers with and without each fault in turn; what the others' stages took.

    Raises:
        RuntimeError: an answer failed.
    """
    found: list[Beside] = []
    for operation, provider in FAULTS.items():
        others = [stage for stage, needs in STAGES.items() if needs != operation]
        taken: dict[bool, dict[str, list[float]]] = {
            broken: {stage: [] for stage in others} for broken in (False, True)
        }
        for _ in range(rounds):
            for broken in (False, True):
                clear(http, providers)
                if broken:
                    providers.fault("overloaded", provider=provider, operation=operation)
                timings = _timings(http)
                for stage in others:
                    if stage in timings:
                        taken[broken][stage].append(timings[stage])
        for stage in others:
            fault = f"{provider} {operation}"
            found.append(
                Beside(fault, stage, summary(taken[False][stage]), summary(taken[True][stage]))
            )
    clear(http, providers)
    return found


def _timings(http: httpx.Client) -> dict[str, float]:
    seen = ask(http)
    if seen.done is None:
        raise RuntimeError(f"no answer: {json.dumps(seen.error)}")
    timings: dict[str, float] = seen.done["timings_ms"]
    return timings


def report(found: list[Beside]) -> list[dict[str, Any]]:
    """For the last line."""
    return [
        {
            "fault": each.fault,
            "stage": each.stage,
            "p50_ms": round(each.without.p50, 2),
            "interval_ms": [round(each.without.low, 2), round(each.without.high, 2)],
            "beside_p50_ms": round(each.beside.p50, 2),
            "holds": each.holds,
        }
        for each in found
    ]
