"""How many answers may be written at the same time before the first text comes late.

Everything a provider does is simulated as remote: embedding, rerank and a model whose first
text comes after 400 ms and which then writes 60 tokens a second, 200 an answer, in 20
pieces a second. Delays do not vary, so what varies is the mesh's. Users are closed: so many
streams are open at any time, and a new one begins when one ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.load import analysis, page, svg
from loadtest.load.analysis import Stretch
from loadtest.load.drivers import MAIN_KEY, Drivers
from loadtest.load.mesh import Providers, fill, started
from loadtest.load.mix import Mix, load_mix
from loadtest.load.observed import GENERATOR, MACHINE, SIMULATOR, Watcher
from loadtest.load.open_driver import ARRIVING_SHARE
from loadtest.load.plan import Plan, Track
from loadtest.load.plan import Stretch as Planned
from loadtest.load.samples import Sample
from loadtest.load.svg import Series

NAME = "streams"
GOAL = 250
RATIO = 1.5
ALONE_USERS = 2
PACE: Mapping[str, Mapping[str, float]] = {
    "embed": {"first_byte_ms": 100, "spread": 0.0},
    "rerank": {"first_byte_ms": 100, "spread": 0.0},
    "generate": {
        "first_byte_ms": 400,
        "spread": 0.0,
        "tokens_per_second": 60,
        "frame_tokens": 3,
        "answer_tokens": 200,
    },
}
FILLER = 40


@dataclass(frozen=True, slots=True)
class Course:
    """How many users, and for how long each number of them."""

    users: Sequence[int]
    seconds: float
    alone_seconds: float


FULL = Course((50, 100, 150, 200, 250, 300, 350), 60.0, 60.0)
SHORT = Course((50, 100, 150, 200, GOAL), 20.0, 20.0)


def settings(provider: str) -> dict[str, str]:
    """A mesh that computes nothing itself.

    Args:
        provider: Whose model writes.
    """
    return {
        "CITEMESH_EMBEDDING_SPACES": "gemini/gemini-embedding-001@768",
        "CITEMESH_GENERATION_PROVIDERS": f"{provider},local",
        "CITEMESH_RERANK_PROVIDERS": "cohere,local",
        "CITEMESH_RETRIEVAL_RERANK_SECONDS": "1.5",
        "OTEL_TRACES_SAMPLER_ARG": "0.1",
    }


def measure(home: Path, course: Course, provider: str, say: Any) -> dict[str, Any]:
    """Runs the course on a mesh of its own; returns its figures."""
    mix = load_mix()
    with started(home, settings(provider)) as mesh:
        fill(mesh, mix, FILLER)
        providers = Providers(mesh)
        providers.pace(PACE)
        drivers = Drivers(home, {MAIN_KEY: mesh.api_key})
        watcher = Watcher(mesh.data, drivers.pids)
        asking = mix.only("ask", 1.0)
        say(f"{provider} writes")
        try:
            with watcher.watching():
                # One round to warm connections and caches, of which nothing is kept.
                drivers.open(_plan(mesh.url, asking, ALONE_USERS, 5.0, seed=1))
                alone = _rung(drivers, watcher, mesh.url, mix, ALONE_USERS, course.alone_seconds)
                rungs = []
                for users in course.users:
                    rungs.append(_rung(drivers, watcher, mesh.url, mix, users, course.seconds))
                    say(line(rungs[-1], alone))
        finally:
            drivers.close()
            providers.close()
    return {"provider": provider, "alone": alone, "rungs": rungs, **verdict(alone, rungs)}


def report(found: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """The figures with what they were made on."""
    return {"version": 1, "scenario": NAME, "environment": dict(environment), "pace": PACE, **found}


def summary(found: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """The last line of `make load SCENARIO=streams`."""
    keys = ("scenario", "provider", "held_streams", "first_p95_ratio_at_250", "failed")
    return {key: found[key] for key in keys} | {
        "first_p95_alone_ms": found["alone"]["first_ms"]["p95"],
        **files,
    }


def render(found: Mapping[str, Any]) -> str:
    """The page of a report."""
    alone, rungs = found["alone"], found["rungs"]
    verdict = (
        f"{found['held_streams']:.0f} streams held their first text within {RATIO} times the "
        f"{alone['first_ms']['p95']:.0f} ms (p95) that it takes without load."
    )
    columns = (
        *("users", "streams", "answers/s", "first p50", "first p95", "ratio", "whole p50"),
        *("errors", "mesh cores", "CPU ms an answer", "generator", "simulator", "others"),
    )
    rows = [
        (
            *(each[name] for name in ("users", "streams", "answers_per_s")),
            *(each["first_ms"][name] for name in ("p50", "p95")),
            ratio(each, alone),
            each["total_ms"]["p50"],
            page.percent(each["error_share"]),
            *(each[name] for name in ("mesh_cores", "cpu_ms_an_answer", "generator_cores")),
            *(each[name] for name in ("simulator_cores", "foreign_cores")),
        )
        for each in (alone, *rungs)
    ]
    drawing = svg.plot(
        [
            Series(
                name, [(r["streams"], r["first_ms"][name] or 0) for r in (alone, *rungs)], colour
            )
            for name, colour in (("p95", svg.COLOURS[1]), ("p50", svg.COLOURS[0]))
        ],
        across="streams at the same time",
        up="first text, ms",
        marks=[(GOAL, "goal")] if rungs[-1]["streams"] >= GOAL else [],
        label="time to the first text over concurrent streams",
    )
    of_each = [demands(each) for each in rungs]
    costs = page.table(
        ("service", *(f"{each['users']} users" for each in rungs)),
        ((name, *(found.get(name, 0.0) for found in of_each)) for name in of_each[-1]),
    )
    about = page.table(
        ("", ""), ((name, str(value)) for name, value in found["environment"].items())
    )
    return page.document(
        "citemesh load: streams",
        f"<h1>streams</h1><p>{verdict}</p><p class=quiet>Embedding and rerank answer after 100 ms, "
        f"the model of {found['provider']} after 400 ms, then 60 tokens a second in 20 pieces, 200 "
        "an answer; no delay varies. Mesh, simulator and generator share the cores.</p>"
        f"{page.table(columns, rows)}{drawing}<h2>Processor milliseconds of an answer</h2>{costs}"
        f"<h2>Made on</h2>{about}",
    )


def _plan(url: str, mix: Mix, users: int, seconds: float, seed: int) -> Plan:
    steps = (Planned(f"{users} streams", seconds, users, users),)
    track = Track("main", MAIN_KEY, mix.kinds, mix.fresh, seed, steps)
    return Plan(url, (track,), closed=True, drain=True, timeout_seconds=60.0)


def _rung(
    drivers: Drivers, watcher: Watcher, url: str, mix: Mix, users: int, seconds: float
) -> dict[str, Any]:
    plan = _plan(url, mix.only("ask", 1.0), users, seconds, seed=100 + users)
    found, (whole,) = drivers.open(plan)
    watcher.look()
    # Only the time in which all users were there.
    steady = Stretch(whole.name, whole.begins + ARRIVING_SHARE * seconds, whole.begins + seconds)
    return figures(users, steady, found, watcher.snapshots, mix)


def figures(
    users: int, steady: Stretch, found: Sequence[Sample], snapshots: Any, mix: Mix
) -> dict[str, Any]:
    """What one number of users got in a steady stretch."""
    begun = [each for each in found if steady.begins <= each.due < steady.ends]
    step = analysis.step_figures(steady, begun, snapshots, mix.slo)
    answered = analysis.worked_on(found, steady).get("answer", 0.0)
    mesh = analysis.mesh_cores(step["cores"])
    return {
        "users": users,
        "streams": round(analysis.in_flight(found, steady), 1),
        "answers_per_s": round(answered / steady.seconds, 3),
        "first_ms": step["first_ms"],
        "total_ms": step["total_ms"],
        "error_share": step["error_share"],
        "errors": step["errors"],
        "degraded": step["degraded"],
        "mesh_cores": round(mesh, 3),
        "cpu_ms_an_answer": round(1e3 * mesh * steady.seconds / answered, 2) if answered else None,
        "generator_cores": step["cores"].get(GENERATOR, 0.0),
        "simulator_cores": step["cores"].get(SIMULATOR, 0.0),
        "foreign_cores": analysis.foreign_cores(step["cores"]),
        "cores": step["cores"],
    }


def verdict(alone: Mapping[str, Any], rungs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many streams were held, and the ratio at the goal."""
    held = [
        rung["streams"]
        for rung in rungs
        if (value := ratio(rung, alone)) is not None and value <= RATIO and not rung["error_share"]
    ]
    goal = next((rung for rung in rungs if rung["users"] == GOAL), None)
    reached = goal is not None and goal["streams"] in held
    return {
        "held_streams": max(held, default=0),
        "first_p95_ratio_at_250": ratio(goal, alone) if goal else None,
        "failed": [] if reached else [f"{GOAL} streams within {RATIO}x"],
    }


def ratio(rung: Mapping[str, Any], alone: Mapping[str, Any]) -> float | None:
    """P95 of the time to the first text beside that without load."""
    loaded, rest = rung["first_ms"]["p95"], alone["first_ms"]["p95"]
    return round(loaded / rest, 3) if loaded and rest else None


def demands(rung: Mapping[str, Any]) -> dict[str, float]:
    """Processor milliseconds of an answer by process, the dearest first; of ours alone."""
    answers = max(rung["answers_per_s"], 1e-9)
    cost = {name: round(1e3 * used / answers, 1) for name, used in rung["cores"].items()}
    return dict(
        sorted(
            ((name, ms) for name, ms in cost.items() if name != MACHINE), key=lambda each: -each[1]
        )
    )


def line(rung: Mapping[str, Any], alone: Mapping[str, Any]) -> str:
    """What the terminal shows of a number of users."""
    return (
        f"{rung['users']:4d} users: {rung['streams']:6.1f} streams, {rung['answers_per_s']:6.2f}"
        f" answers/s, first p50 {rung['first_ms']['p50']} p95 {rung['first_ms']['p95']} ms"
        f" ({ratio(rung, alone)}x), whole p50 {rung['total_ms']['p50']} ms, errors"
        f" {rung['error_share']:.1%}, mesh {rung['mesh_cores']:.2f} cores"
        f" ({rung['cpu_ms_an_answer']} ms an answer), generator {rung['generator_cores']:.2f},"
        f" simulator {rung['simulator_cores']:.2f}, others {rung['foreign_cores']:.2f}\n"
        f"  ms an answer: {', '.join(f'{name} {ms}' for name, ms in demands(rung).items())}"
    )
