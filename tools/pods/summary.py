"""What a run came to: a table for people, one JSON object for programs, and a verdict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tools.pods.callers import Seen
from tools.pods.scenario import Report


def table(report: Report) -> Iterator[str]:
    """What was seen, a line a phase."""
    yield f"{'phase':34} {'asked':>6} {'right':>6} {'failed':>7} {'slowest':>10}  without"
    for name, seen in (
        ("at rest", report.asked),
        (f"{report.killed} killed", report.during_kill),
        (f"{report.rolled} rolled", report.during_roll),
    ):
        without = ", ".join(f"{what} {count}" for what, count in seen.degraded.items()) or "-"
        yield (
            f"{name:34} {seen.asked:6} {seen.right:6} {seen.failed_requests:7} "
            f"{seen.slowest_ms:7.0f} ms  {without}"
        )
        yield from (f"    {line}" for line in seen.failed[:5])


def summary(report: Report, *, images: int, left_behind: int, seconds: float) -> dict[str, Any]:
    """The JSON object of the last line; `left_behind` counts containers and networks."""
    phases: tuple[Seen, ...] = (report.asked, report.during_kill, report.during_roll)
    return {
        "images": images,
        "containers": report.containers,
        "replicas": report.replicas,
        "ready_s": round(report.ready_s, 1),
        "uploaded": report.uploaded,
        "asked": sum(seen.asked for seen in phases),
        "failed_requests": sum(seen.failed_requests for seen in phases),
        "failed_at_rest": report.asked.failed_requests,
        "killed": report.killed,
        "failed_during_kill": report.during_kill.failed_requests,
        "recovered_s": round(report.recovered_s, 1),
        "rolled": report.rolled,
        "failed_during_roll": report.during_roll.failed_requests,
        "rolled_s": round(report.rolled_s, 1),
        "restarts": report.restarts,
        "left_behind": left_behind,
        "seconds": round(seconds, 1),
    }


def holds(found: dict[str, Any]) -> bool:
    """Whether what was promised held."""
    return not (found["failed_at_rest"] or found["failed_during_roll"] or found["left_behind"])
