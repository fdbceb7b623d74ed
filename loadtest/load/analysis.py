"""From samples and snapshots to the figures of a report. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.bench.statistics import percentile
from loadtest.load.demands import Window
from loadtest.load.mix import FOLLOW_UP, QUESTIONS, Objectives
from loadtest.load.observed import GENERATOR, MACHINE, NOT_THE_MESH, Snapshot, between
from loadtest.load.samples import Sample
from loadtest.load.scaling import Rung

STREAMED = frozenset({"ask", FOLLOW_UP, "grpc"})
SEARCH = "search"
PROMISED = QUESTIONS | {SEARCH}
"""Kinds that are held to times."""
SETTLED_SECONDS = 1.0
"""Of a rung, while its users come."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """When a step really began and ended, seconds since 1970."""

    name: str
    begins: float
    ends: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.ends - self.begins


def milliseconds(values: Iterable[float]) -> dict[str, float | None]:
    """Percentiles of seconds, in milliseconds; None without any."""
    found = list(values)
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    result: dict[str, float | None] = {
        name: round(percentile(found, share) * 1e3, 1) if found else None
        for name, share in shares.items()
    }
    return result | {"mean": round(sum(found) / len(found) * 1e3, 1) if found else None}


def good(sample: Sample, slo: Objectives) -> bool:
    """Whether a request was answered as promised; uploads and deletes are promised no time."""
    if not sample.ok or sample.kind not in PROMISED:
        return sample.ok
    late = first_counts(sample) and sample.to_first * 1e3 > slo.first_ms(sample.kind)
    return not late and sample.total * 1e3 <= slo.total_p95_ms


def first_counts(sample: Sample) -> bool:
    """Whether the time to the first text says something: an answer in one piece has no first."""
    return sample.kind in STREAMED or sample.kind == SEARCH


def share(count: float, of: float) -> float:
    """A share, 0 of nothing."""
    return round(count / of, 4) if of else 0.0


def quality(samples: Iterable[Sample]) -> dict[str, Any]:
    """Share of the answers that cite a right document, with its 95 % interval (Wilson)."""
    judged = [found.right for found in samples if found.ok and found.right is not None]
    n, hits = len(judged), sum(judged)
    if not n:
        return {"right": None, "low": None, "high": None, "answers": 0}
    z = 1.96
    middle = (hits + z * z / 2) / (n + z * z)
    half = z * math.sqrt(hits * (n - hits) / n + z * z / 4) / (n + z * z)
    return {
        "right": round(hits / n, 4),
        "low": round(middle - half, 4),
        "high": round(middle + half, 4),
        "answers": n,
    }


def step_figures(
    stretch: Stretch,
    samples: Sequence[Sample],
    snapshots: Sequence[Snapshot],
    slo: Objectives,
) -> dict[str, Any]:
    """What happened to the requests of one step on the main track, and what it cost.

    Args:
        stretch: The step.
        samples: Of every track and step of the run.
        snapshots: Of the whole run.
        slo: What is good.
    """
    here = [found for found in samples if found.step == stretch.name]
    main = [found for found in here if found.track == "main"]
    others = [found for found in here if found.track != "main"]
    ok = [found for found in main if found.ok]
    answers = [found for found in ok if found.kind in QUESTIONS]
    streamed = [found for found in answers if found.kind in STREAMED]
    cpu = between(snapshots, stretch.begins, stretch.ends)
    return {
        "name": stretch.name,
        "seconds": round(stretch.seconds, 2),
        "offered_per_s": round(len(main) / stretch.seconds, 3),
        "completed_per_s": round(len(ok) / stretch.seconds, 3),
        "goodput_per_s": round(sum(good(found, slo) for found in main) / stretch.seconds, 3),
        "error_share": share(len(main) - len(ok), len(main)),
        "errors": dict(Counter(found.reason for found in main if found.reason)),
        "other_tracks": {
            "offered_per_s": round(len(others) / stretch.seconds, 3),
            "error_share": share(sum(not found.ok for found in others), len(others)),
            "errors": dict(Counter(found.reason for found in others if found.reason)),
        },
        "first_ms": milliseconds(found.to_first for found in streamed),
        "total_ms": milliseconds(found.total for found in answers),
        "kinds": {
            kind: {
                "count": len(found),
                "error_share": share(sum(not each.ok for each in found), len(found)),
                "total_ms": milliseconds(each.total for each in found if each.ok),
                "first_ms": milliseconds(
                    each.to_first for each in found if each.ok and kind in STREAMED
                ),
            }
            for kind in sorted({found.kind for found in main})
            if (found := [each for each in main if each.kind == kind])
        },
        "degraded": {
            name: share(count, len(answers))
            for name, count in Counter(n for found in answers for n in found.degraded).items()
        },
        "degraded_share": share(sum(bool(found.degraded) for found in answers), len(answers)),
        "cached_share": share(
            sum(found.demand_class == "cached_answer" for found in answers), len(answers)
        ),
        "providers": {
            name: share(count, len(answers))
            for name, count in Counter(found.provider for found in answers).items()
        },
        "quality": quality(answers),
        "in_flight": round(in_flight(here, stretch), 3),
        "lag_p99_ms": milliseconds(found.sent - found.due for found in main)["p99"],
        "classes": worked_on(samples, stretch),
        "latency_by_class": {
            name: milliseconds(found.total for found in ok if found.demand_class == name)
            for name in sorted({found.demand_class for found in ok})
        },
        "cores": {name: round(used / stretch.seconds, 4) for name, used in sorted(cpu.items())},
    }


def in_flight(samples: Iterable[Sample], stretch: Stretch) -> float:
    """Requests under way in a step, on average over its time, whenever they began."""
    under_way = sum(
        max(0.0, min(found.end, stretch.ends) - max(found.sent, stretch.begins))
        for found in samples
    )
    return under_way / stretch.seconds


def worked_on(samples: Iterable[Sample], stretch: Stretch) -> dict[str, float]:
    """Requests by class that were worked on in a stretch, whichever step they were due in.

    A request counts by the share of its time that lies here, so that an overload's rest is
    part of the step that had to do it.
    """
    found: dict[str, float] = {}
    for each in samples:
        inside = min(each.end, stretch.ends) - max(each.sent, stretch.begins)
        if each.ok and inside > 0:
            part = inside / max(inside, each.end - each.sent)
            found[each.demand_class] = found.get(each.demand_class, 0.0) + part
    return {name: round(count, 3) for name, count in sorted(found.items())}


def window(figures: Mapping[str, Any], cores: int) -> Window:
    """A step on so many cores as the estimate of demands takes it."""
    seconds = figures["seconds"]
    return Window(
        seconds,
        figures["classes"],
        {
            name: cores * seconds
            for name, cores in figures["cores"].items()
            if name not in (MACHINE, GENERATOR)
        },
        busy=figures["cores"].get(MACHINE, 0.0) / cores,
    )


def rung_stretches(samples: Sequence[Sample], seconds: float) -> list[Stretch]:
    """When the steps of a ladder began, from its samples; without the time its users came."""
    begins: dict[str, float] = {}
    for found in samples:
        begins[found.step] = min(begins.get(found.step, found.due), found.due)
    return [
        Stretch(name, at + SETTLED_SECONDS, at + seconds)
        for name, at in sorted(begins.items(), key=lambda item: item[1])
    ]


def rung(stretch: Stretch, samples: Sequence[Sample]) -> Rung:
    """Completions by second in a step of the ladder."""
    done = [found for found in samples if found.ok and stretch.begins <= found.end < stretch.ends]
    whole = max(1, round(stretch.seconds))
    counts = [0] * whole
    for found in done:
        counts[min(whole - 1, int((found.end - stretch.begins) / stretch.seconds * whole))] += 1
    length = stretch.seconds / whole
    return Rung(
        float(stretch.name.split()[0]),
        [count / length for count in counts],
    )


STEADY = 3.0
"""A stretch this many times as long as a request: then its ends hardly count."""


def littles_law(stretch: Stretch, counted: float, samples: Sequence[Sample]) -> dict[str, Any]:
    """N beside X R: when they differ in a steady stretch, something was not counted.

    Args:
        stretch: A step.
        counted: Requests or users under way in it.
        samples: Requests; those that were refused were under way, too.
    """
    ended = [found for found in samples if stretch.begins <= found.end < stretch.ends]
    throughput = len(ended) / stretch.seconds
    seconds = sum(found.end - found.sent for found in ended) / max(1, len(ended))
    product = throughput * seconds
    return {
        "name": stretch.name,
        "steady": stretch.seconds >= STEADY * seconds,
        "counted": round(counted, 3),
        "per_s": round(throughput, 3),
        "mean_s": round(seconds, 4),
        "product": round(product, 3),
        "ratio": round(product / counted, 4) if counted else None,
    }


def foreign_cores(cores: Mapping[str, float]) -> float:
    """Cores that neither the mesh nor its load took: somebody else's, or the kernel's."""
    ours = sum(used for name, used in cores.items() if name != MACHINE)
    return round(max(0.0, cores.get(MACHINE, 0.0) - ours), 4)


def mesh_cores(cores: Mapping[str, float]) -> float:
    """Cores that the mesh itself took."""
    return sum(used for name, used in cores.items() if name not in NOT_THE_MESH)


def timeline(samples: Sequence[Sample], begins: float, ends: float) -> list[dict[str, Any]]:
    """Second by second: what was due, answered and refused, and the latency of answers."""
    seconds: list[list[Sample]] = [[] for _ in range(max(1, math.ceil(ends - begins)))]
    done = [0] * len(seconds)
    for found in samples:
        if begins <= found.due < ends:
            seconds[int(found.due - begins)].append(found)
        if found.ok and begins <= found.end < ends:
            done[int(found.end - begins)] += 1
    return [
        {
            "at": at,
            "due": len(here),
            "done": done[at],
            "failed": sum(not found.ok for found in here),
            "first_ms": milliseconds(
                found.to_first for found in here if found.ok and found.kind in STREAMED
            ),
        }
        for at, here in enumerate(seconds)
    ]
