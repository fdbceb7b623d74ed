"""The report as data: what was found, what it is held to, what may be wrong with it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from loadtest.load import analysis, traces
from loadtest.load.mix import Mix
from loadtest.load.observed import GENERATOR
from loadtest.load.run import Seen, cores_of_mesh, service_demands, service_memory
from loadtest.load.scenarios import Scenario

VERSION = 1
OVERLOAD = "3x the knee"
LITTLE_WITHIN = 0.1
QUALITY_MAY_FALL = 0.05
GOODPUT_AT_3X = 0.9
GENERATOR_CORES = 0.9
LAG_MS = 50.0
HOPS_SHOWN = 20


def assemble(
    scenario: Scenario, mix: Mix, seen: Seen, environment: Mapping[str, Any], *, short: bool
) -> dict[str, Any]:
    """The report, as JSON takes it."""
    assert seen.fit is not None
    steps = {step["name"]: step for step in seen.steps}
    rest, peak = steps[scenario.at_rest], steps[scenario.at_peak]
    alone = [step for step in seen.preparation if step["name"] == "ask alone"]
    report: dict[str, Any] = {
        "version": VERSION,
        "scenario": scenario.name,
        "about": scenario.about,
        "short": short,
        "environment": dict(environment),
        "mix": {"kinds": dict(mix.kinds), "zipf": mix.zipf, "fresh": mix.fresh},
        "slo": asdict(mix.slo),
        "documents": seen.documents,
        "at_rest": scenario.at_rest,
        "at_peak": scenario.at_peak,
        "knee_per_s": round(seen.fit.knee_per_s, 3),
        "knee_users": round(seen.fit.knee_users, 2),
        "max_per_s": round(seen.fit.max_per_s, 3),
        "p95_ms": peak["total_ms"]["p95"],
        "first_token_p95_ms": peak["first_ms"]["p95"],
        "error_share": peak["error_share"],
        "goodput_share_at_3x": goodput_share(steps),
        "quality": {
            "at_rest": pooled([rest["quality"], *(step["quality"] for step in alone)]),
            "at_peak": peak["quality"]["right"],
        },
        "law": {
            **asdict(seen.fit.law),
            "intervals": seen.fit.intervals,
            "r2": round(seen.fit.r2, 4),
        },
        "ladder": seen.rungs,
        "preparation": seen.preparation,
        "steps": seen.steps,
        "timeline": analysis.timeline(
            [found for found in seen.samples if found.track == "main"],
            seen.stretches[0].begins,
            seen.stretches[-1].ends,
        ),
        "boundaries": [
            {
                "name": each.name,
                "begins": round(each.begins - seen.stretches[0].begins, 2),
                "ends": round(each.ends - seen.stretches[0].begins, 2),
            }
            for each in seen.stretches
        ],
        "idle_cores": {name: round(used, 5) for name, used in seen.idle.items()},
        "demands": {
            name: {service: round(value, 6) for service, value in values.items()}
            for name, values in service_demands(seen).items()
        },
        "providers": providers(seen),
        "memory": service_memory(seen),
        "processor": processor(seen),
        "hops": hops(scenario, seen),
        "littles_law": seen.littles_law,
        "ready_after_s": round(seen.ready_after_s, 2),
    }
    report["generator"] = {
        "cores_at_peak": peak["cores"].get(GENERATOR, 0.0),
        "lag_p99_ms": peak["lag_p99_ms"],
        "not_sent": sum(step["errors"].get("DRIVER_FULL", 0) for step in seen.steps),
    }
    report["checks"] = checks(report, steps, mix)
    report["threats"] = threats(report, seen, short=short)
    return report


def goodput_share(steps: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Goodput at three knees beside the best of any step; None where nobody tried."""
    if OVERLOAD not in steps:
        return None
    best = max(step["goodput_per_s"] for step in steps.values())
    return analysis.share(steps[OVERLOAD]["goodput_per_s"], best)


def pooled(found: Sequence[Mapping[str, Any]]) -> float | None:
    """One share of several, each with its number of answers."""
    judged = [each for each in found if each["answers"]]
    count = sum(each["answers"] for each in judged)
    right = sum(each["right"] * each["answers"] for each in judged)
    return round(right / count, 4) if count else None


def providers(seen: Seen) -> dict[str, Any]:
    """Tokens and money of an answer that was written anew, for quotas and costs."""
    samples = [found for found in seen.samples if found.ok and found.demand_class == "answer"]
    count = max(1, len(samples))
    return {
        "answers": len(samples),
        "input_tokens": round(sum(found.tokens_in for found in samples) / count, 1),
        "output_tokens": round(sum(found.tokens_out for found in samples) / count, 1),
        "cost_usd": round(sum(found.cost_usd for found in samples) / count, 8),
    }


def processor(seen: Seen) -> list[dict[str, Any]]:
    """Cores of each service, second by second over the scenario."""
    assert seen.watcher is not None
    begins = seen.stretches[0].begins
    shots = [found for found in seen.watcher.snapshots if found.at >= begins]
    return [
        {
            "at": round(later.at - begins, 2),
            "cores": {
                name: round(
                    max(0.0, used - earlier.cpu.get(name, used)) / (later.at - earlier.at), 4
                )
                for name, used in later.cpu.items()
            },
        }
        for earlier, later in pairwise(shots)
        if later.at - earlier.at > 0.5
    ]


def hops(scenario: Scenario, seen: Seen) -> dict[str, list[dict[str, Any]]]:
    """Where the time goes at rest and at the peak."""
    wanted = {scenario.at_rest: "at_rest", scenario.at_peak: "at_peak"}
    return {
        wanted[each.name]: [
            {name: round(v, 3) if isinstance(v, float) else v for name, v in asdict(hop).items()}
            for hop in traces.hops(seen.spans, each.begins, each.ends)[:HOPS_SHOWN]
        ]
        for each in seen.stretches
        if each.name in wanted
    }


def checks(
    report: Mapping[str, Any], steps: Mapping[str, Mapping[str, Any]], mix: Mix
) -> list[dict[str, Any]]:
    """What must hold; the run fails when one does not."""
    peak = steps[report["at_peak"]]
    quality = report["quality"]
    found = [
        _check("errors at the peak", peak["error_share"], "<=", mix.slo.error_share),
        _check(
            "first text p95 at the peak, ms",
            peak["first_ms"]["p95"],
            "<=",
            mix.slo.first_token_p95_ms,
        ),
        _check("answer p95 at the peak, ms", peak["total_ms"]["p95"], "<=", mix.slo.total_p95_ms),
        _check(
            "right documents at the peak",
            quality["at_peak"],
            ">=",
            round((quality["at_rest"] or 0.0) - QUALITY_MAY_FALL, 4),
        ),
        _check(
            "Little's law, worst rung of the ladder",
            max(
                (round(abs(each["ratio"] - 1), 4)
                 for each in report["littles_law"][: len(report["ladder"])]
                 if each["steady"] and each["ratio"] is not None),
                default=None,
            ),
            "<=",
            LITTLE_WITHIN,
        ),
        _check("generator, cores", report["generator"]["cores_at_peak"], "<=", GENERATOR_CORES),
        _check("generator late p99, ms", report["generator"]["lag_p99_ms"], "<=", LAG_MS),
    ]  # fmt: skip
    if report["goodput_share_at_3x"] is not None:
        found.append(
            _check("goodput at three knees", report["goodput_share_at_3x"], ">=", GOODPUT_AT_3X)
        )
    return found


def _check(name: str, value: float | None, sign: str, limit: float) -> dict[str, Any]:
    holds = value is not None and (value <= limit if sign == "<=" else value >= limit)
    return {"name": name, "value": value, "sign": sign, "limit": limit, "holds": holds}


def threats(report: Mapping[str, Any], seen: Seen, *, short: bool) -> list[str]:
    """What a reader should know before believing the numbers; measured where it can be."""
    cores = report["environment"]["cores"]
    foreign = max((analysis.foreign_cores(step["cores"]) for step in seen.steps), default=0.0)
    generator = report["generator"]
    shared = (
        f"Mesh, Postgres, the simulator of providers and the load generator share {cores} cores: "
        f"the generator took {generator['cores_at_peak']:.2f} of a core at the peak. On machines "
        "of its own the mesh carries more, and pays for a network that loopback does not have."
    )
    simulated = (
        "Providers are simulated: their delays are drawn from log-normal distributions, they "
        "answer by copying sentences, and they have no bad days but those of the scenario. Shares "
        "of right documents therefore judge finding and citing, not a language model."
    )
    small = (
        f"The corpus is small ({report['documents']} documents) and in English; "
        "`make bench-scale` says what grows with it."
    )
    once = "One run. The intervals are those of its seconds, not of other days and machines."
    found = [shared, simulated, small, once]
    if foreign > 0.15:
        found.insert(
            0,
            f"The machine was not quiet: up to {foreign:.2f} cores went to processes that were "
            "neither mesh nor load, so absolute times and the knee are too bad.",
        )
    if short:
        found.append(
            "A short form: steps of seconds. Tails (p99), slow leaks and caches that fill over "
            "hours are not in it."
        )
    if report["law"]["r2"] < 0.9:
        found.append(
            f"The scaling law fits badly (R2 {report['law']['r2']:.2f}): read the points, not "
            "the curve."
        )
    if generator["not_sent"]:
        found.append(f"{generator['not_sent']} requests were due and not sent (DRIVER_FULL).")
    return found


def summary(report: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """The last line of `make load`."""
    keys = (
        "scenario", "short", "knee_per_s", "knee_users", "max_per_s", "p95_ms",
        "first_token_p95_ms", "error_share", "goodput_share_at_3x", "quality",
    )  # fmt: skip
    failed = [check["name"] for check in report["checks"] if not check["holds"]]
    return {key: report[key] for key in keys} | {"failed": failed, **files}


def total_cores(step: Mapping[str, Any]) -> float:
    """Cores that the mesh took in a step."""
    return sum(cores_of_mesh(step).values())
