"""One run: prepare, find the knee, go through the scenario, gather what was seen."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.bench.running import RunningMesh
from loadtest.load import analysis, traces
from loadtest.load.analysis import Stretch
from loadtest.load.demands import demands
from loadtest.load.drivers import MAIN_KEY, Drivers, settle
from loadtest.load.environment import cores
from loadtest.load.mesh import (
    SAMPLED_SHORT,
    Providers,
    await_all_ready,
    fill,
    neighbour,
    started,
)
from loadtest.load.mix import Mix, load_mix
from loadtest.load.observed import NOT_THE_MESH, Watcher, growth_mb_per_hour
from loadtest.load.plan import Plan, Track, ladder
from loadtest.load.plan import Stretch as Planned
from loadtest.load.samples import Sample
from loadtest.load.scaling import Fit, fit
from loadtest.load.scenarios import FULL, SHORT, Preparation, Scenario

NEIGHBOUR_KEY = "CITEMESH_LOAD_NEIGHBOUR_KEY"
IDLE_SECONDS = 5.0
SINGLE_KINDS = (("ask", 1.0, 4.0), ("ask", 0.0, 8.0), ("search", 1.0, 10.0), ("upload", 1.0, 3.0))
"""Kind, share of fresh questions, requests a second: what is asked alone to learn its price."""


@dataclass(slots=True)
class Seen:
    """Everything that was measured."""

    idle: dict[str, float] = field(default_factory=dict)
    preparation: list[dict[str, Any]] = field(default_factory=list)
    rungs: list[dict[str, Any]] = field(default_factory=list)
    fit: Fit | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    littles_law: list[dict[str, Any]] = field(default_factory=list)
    documents: int = 0
    ready_after_s: float = 0.0
    watcher: Watcher | None = None
    spans: list[traces.Span] = field(default_factory=list)


class Run:
    """Measures one scenario on a mesh of its own.

    Args:
        scenario: What to go through.
        short: Prepare in a minute instead of in ten.
        knee: Requests a second to take for the knee; None measures it.
        say: Told what is happening.
    """

    def __init__(
        self, scenario: Scenario, *, short: bool, knee: float | None = None, say: Any = print
    ) -> None:
        self._scenario = scenario
        self._preparation: Preparation = SHORT if short else FULL
        self._settings = {"OTEL_TRACES_SAMPLER_ARG": SAMPLED_SHORT} if short else {}
        self._knee = knee
        self._say = say
        self._mix = load_mix()

    def go(self, home: Path) -> Seen:
        """Runs everything below a folder."""
        seen = Seen()
        self._say("starting a mesh that calls the simulator")
        with started(home, self._settings) as mesh:
            seen.documents = fill(mesh, self._mix, self._scenario.filler)
            self._say(f"{seen.documents} documents are ready")
            keys = {MAIN_KEY: mesh.api_key, NEIGHBOUR_KEY: self._neighbour(mesh)}
            drivers = Drivers(home, keys)
            watcher = seen.watcher = Watcher(mesh.data, drivers.pids)
            providers = Providers(mesh)
            try:
                with watcher.watching():
                    self._at_rest(mesh, drivers, seen)
                    self._climb(mesh, drivers, seen)
                    self._play(mesh, drivers, providers, seen)
            finally:
                drivers.close()
                providers.close()
        # Each process writes its last spans when it stops.
        seen.spans = traces.read(mesh.data / "traces")
        return seen

    def _neighbour(self, mesh: RunningMesh) -> str:
        return neighbour(mesh) if any(step.neighbour for step in self._scenario.steps) else ""

    def _at_rest(self, mesh: RunningMesh, drivers: Drivers, seen: Seen) -> None:
        """What the mesh takes without a request, and for single kinds of them."""
        self._say("measuring what single requests cost")
        stretch = settle(IDLE_SECONDS)
        figures = self._figures(seen, stretch, [])
        seen.idle = {n: c for n, c in figures["cores"].items() if n not in ("machine", "generator")}
        for number, (kind, fresh, rate) in enumerate(SINGLE_KINDS):
            mix = self._mix.only(kind, fresh)
            steps = (Planned(f"{kind} alone", self._preparation.demand_seconds, rate, rate),)
            plan = Plan(mesh.url, (self._track(mix, steps, seed=90 + number),), drain=True)
            found, stretches = drivers.open(plan)
            if kind == "upload":
                with mesh.client() as client:
                    waited = await_all_ready(client)
                stretches = [Stretch(s.name, s.begins, s.ends + waited) for s in stretches]
            seen.preparation += [self._figures(seen, each, found) for each in stretches]

    def _climb(self, mesh: RunningMesh, drivers: Drivers, seen: Seen) -> None:
        """The ladder of closed users, and the law that fits it."""
        prepared = self._preparation
        self._say(f"climbing to {prepared.users[-1]} users, closed, by Locust")
        steps = ladder(prepared.users, prepared.rung_seconds)
        mix = self._mix.without("grpc")
        plan = Plan(mesh.url, (self._track(mix, steps, seed=7),))
        found = drivers.closed(plan)
        rungs = []
        for stretch in analysis.rung_stretches(found, prepared.rung_seconds):
            rung = analysis.rung(stretch, found)
            rungs.append(rung)
            figures = self._figures(seen, stretch, found)
            seen.rungs.append({"users": rung.users, "per_s": rung.throughput, **figures})
            seen.littles_law.append(analysis.littles_law(stretch, rung.users, found))
        seen.fit = fit(rungs)
        if self._knee is None:
            self._knee = seen.fit.knee_per_s
        self._say(f"the knee is at {self._knee:.1f} requests a second")

    def _play(self, mesh: RunningMesh, drivers: Drivers, providers: Providers, seen: Seen) -> None:
        """The scenario itself, by open arrivals."""
        steps = {step.name: step for step in self._scenario.steps}
        self._say(f"{self._scenario.name}: {self._scenario.about}")

        def begun(name: str) -> None:
            self._say(f"  {name}")
            if steps[name].fault:
                # Beside the reading of what the driver says next.
                threading.Thread(target=providers.strike, args=(steps[name].fault,)).start()

        seen.samples, seen.stretches = drivers.open(Plan(mesh.url, self._tracks()), begun)
        with mesh.client() as client:
            seen.ready_after_s = await_all_ready(client)
        for stretch in seen.stretches:
            figures = self._figures(seen, stretch, seen.samples)
            seen.steps.append(figures)
            law = analysis.littles_law(stretch, figures["in_flight"], seen.samples)
            seen.littles_law.append(law)

    def _tracks(self) -> tuple[Track, ...]:
        assert self._knee is not None
        knee = self._knee

        def planned(rate: Any) -> tuple[Planned, ...]:
            return tuple(
                Planned(step.name, step.seconds, *rate(step)) for step in self._scenario.steps
            )

        tracks = [
            self._track(self._mix, planned(lambda s: (s.begins * knee, s.ends * knee)), seed=1)
        ]
        if any(step.documents for step in self._scenario.steps):
            arriving = planned(lambda s: (s.documents / s.seconds,) * 2)
            tracks.append(self._track(self._mix.only("upload", 1.0), arriving, 2, "documents"))
        if any(step.neighbour for step in self._scenario.steps):
            noise = planned(lambda s: (s.neighbour * knee,) * 2)
            mix = self._mix.without("delete")
            tracks.append(self._track(mix, noise, 3, "neighbour", NEIGHBOUR_KEY))
        return tuple(tracks)

    def _track(
        self,
        mix: Mix,
        steps: Sequence[Planned],
        seed: int,
        name: str = "main",
        key: str = MAIN_KEY,
    ) -> Track:
        return Track(name, key, mix.kinds, mix.fresh, seed, tuple(steps))

    def _figures(self, seen: Seen, stretch: Stretch, samples: Sequence[Sample]) -> dict[str, Any]:
        assert seen.watcher is not None
        # A look of this moment, so that the stretch ends inside of what was seen.
        seen.watcher.look()
        return analysis.step_figures(stretch, samples, seen.watcher.snapshots, self._mix.slo)


def service_demands(seen: Seen) -> dict[str, dict[str, float]]:
    """Processor seconds of a request by class and service, over every step of the run."""
    everything = [*seen.preparation, *seen.rungs, *seen.steps]
    return demands([analysis.window(figures, cores()) for figures in everything], seen.idle)


def service_memory(seen: Seen) -> dict[str, dict[str, float]]:
    """Most memory of each service, and how it grew over the scenario."""
    assert seen.watcher is not None
    begins = seen.stretches[0].begins
    during = [found for found in seen.watcher.snapshots if found.at >= begins]
    names = sorted({name for found in during for name in found.memory_mb})
    return {
        name: {
            "most_mb": round(max(found.memory_mb.get(name, 0.0) for found in during), 1),
            "growth_mb_per_h": round(growth_mb_per_hour(during, name), 1),
        }
        for name in names
    }


def cores_of_mesh(figures: Mapping[str, Any]) -> dict[str, float]:
    """What each service of the mesh took in a step."""
    cores: Mapping[str, float] = figures["cores"]
    return {name: used for name, used in cores.items() if name not in NOT_THE_MESH}
