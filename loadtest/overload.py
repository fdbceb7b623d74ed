"""`make overload`: finds the knee, then offers once, twice and three times as much.

Arrivals are open: nobody waits for an answer before the next request comes. What is good is
answered in time; what is turned away has to be turned away with SERVICE_BUSY. Prints a row a
step, and one JSON object as the last line; exit code 1 when a promise does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from gateway.admission import ANSWER_COST
from loadtest.load import analysis
from loadtest.load.drivers import MAIN_KEY, Drivers
from loadtest.load.mesh import fill, started
from loadtest.load.mix import FOLLOW_UP, QUESTIONS, Objectives, load_mix
from loadtest.load.plan import Plan, Stretch, Track
from loadtest.load.samples import Sample

BUSY = frozenset({"SERVICE_BUSY", "GRPC_RESOURCE_EXHAUSTED"})
"""How a caller is turned away, over REST and over gRPC."""
FIRST_RATE = 4.0
STEEPER = 1.5
BEHIND = 0.85
"""Less than this part of what is offered answered in time: the knee lies below."""
LOADS = (1, 2, 3)
GOODPUT_KEPT = 0.9
PROBE_SECONDS = 0.25
PROBE_PATIENCE_SECONDS = 5.0


@dataclass(slots=True)
class Step:
    """What became of one step's requests."""

    name: str
    offered_per_s: float
    answers_per_s: float
    """In time."""
    others_per_s: float
    work_per_s: float
    """Both together in answers, a search being an eighth of one, as the gateway counts: what
    is turned away first is dear, so that the mix of what is answered changes with the load."""
    first_p99_ms: float
    """To the first text of what was let in; follow-ups, which a model completes first, apart."""
    follow_up_p99_ms: float
    total_p99_ms: float
    """Of everything that was let in, uploads apart."""
    refused: float
    """Share of the requests."""
    failed: dict[str, int]
    """Other reasons, and how often."""
    degraded: float
    """Share of what was answered."""
    probes_failed: int = 0

    def holds(self, slo: Objectives) -> bool:
        """Whether those who were let in were answered in time, and the probes always."""
        in_time = (
            self.first_p99_ms <= slo.first_token_p95_ms
            and self.follow_up_p99_ms <= slo.follow_up_first_token_p95_ms
            and self.total_p99_ms <= slo.total_p95_ms
        )
        return in_time and not self.failed and not self.probes_failed


@dataclass(slots=True)
class Probes:
    """Asks after the gateway's health all the time, as a kubelet does."""

    url: str
    failed: int = 0
    asked: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Asks until the block ends."""
        thread = threading.Thread(target=self._ask)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _ask(self) -> None:
        with httpx.Client(
            base_url=self.url, timeout=PROBE_PATIENCE_SECONDS, trust_env=False
        ) as http:
            while not self._over.wait(PROBE_SECONDS):
                for path in ("/healthz", "/readyz"):
                    self.asked += 1
                    try:
                        answer = http.get(path)
                    except httpx.TransportError as error:
                        self._note(f"{path} {type(error).__name__}")
                        continue
                    if answer.status_code != 200:
                        self._note(f"{path} {answer.status_code} {answer.text[:120]}")

    def _note(self, reason: str) -> None:
        self.failed += 1
        self.reasons[reason] += 1


def percentile(values: Sequence[float], share: float) -> float:
    """The value that a share of them does not pass, in milliseconds; 0 of none."""
    ordered = sorted(values)
    return round(1000 * ordered[int(len(ordered) * share)], 1) if ordered else 0.0


def judged(name: str, seconds: float, found: Sequence[Sample], slo: Objectives) -> Step:
    """One step's samples as figures."""
    answered = [one for one in found if one.ok and one.kind != "upload"]
    good = [one for one in answered if analysis.good(one, slo)]
    first = [one for one in answered if analysis.first_counts(one)]
    answers = sum(one.kind in QUESTIONS for one in good)
    failed = Counter(one.reason for one in found if one.reason and one.reason not in BUSY)
    return Step(
        name=name,
        offered_per_s=round(len(found) / seconds, 2),
        answers_per_s=round(answers / seconds, 2),
        others_per_s=round((len(good) - answers) / seconds, 2),
        work_per_s=round((answers + (len(good) - answers) / ANSWER_COST) / seconds, 2),
        first_p99_ms=percentile([one.to_first for one in first if one.kind != FOLLOW_UP], 0.99),
        follow_up_p99_ms=percentile([one.to_first for one in first if one.kind == FOLLOW_UP], 0.99),
        total_p99_ms=percentile([one.total for one in answered], 0.99),
        refused=round(sum(one.reason in BUSY for one in found) / max(1, len(found)), 3),
        failed=dict(failed),
        degraded=round(sum(bool(one.degraded) for one in answered) / max(1, len(answered)), 3),
    )


class Run:
    """Measures a mesh.

    Args:
        url: Its gateway.
        drivers: The load generator.
        seconds: Length of a step of the climb, and of one of the overload.
    """

    def __init__(self, url: str, drivers: Drivers, seconds: tuple[float, float]) -> None:
        self._url = url
        self._drivers = drivers
        self._climb_seconds, self._seconds = seconds
        self._mix = load_mix()
        self._seed = 0

    def offer(self, name: str, rate: float, seconds: float) -> Step:
        """Offers so many requests a second, and waits until all have ended."""
        self._seed += 1
        stretch = Stretch(name, seconds, rate, rate)
        # Every question is worded as never before: an answer from the cache costs nothing.
        track = Track("main", MAIN_KEY, self._mix.kinds, 1.0, self._seed, (stretch,))
        probes = Probes(self._url)
        with probes.asking():
            found, _ = self._drivers.open(Plan(self._url, (track,), drain=True))
        step = judged(name, seconds, found, self._mix.slo)
        step.probes_failed = probes.failed
        show(step)
        for reason, count in probes.reasons.items():
            print(f"    probe failed {count} times: {reason}", flush=True)
        return step

    def climb(self) -> list[Step]:
        """Steeper and steeper until the mesh falls behind."""
        # The first questions of a mesh pay for connections, plans and pages of weights.
        self.offer("warm-up", FIRST_RATE / 2, self._climb_seconds)
        steps: list[Step] = []
        rate = FIRST_RATE
        while not steps or steps[-1].answers_per_s + steps[-1].others_per_s >= (
            BEHIND * steps[-1].offered_per_s
        ):
            steps.append(self.offer(f"{rate:.1f}/s", rate, self._climb_seconds))
            rate *= STEEPER
        return steps

    def overload(self, knee: float) -> list[Step]:
        """The knee once, twice and three times."""
        return [self.offer(f"{load}x", load * knee, self._seconds) for load in LOADS]


def show(step: Step) -> None:
    """A row of the table."""
    print(
        f"{step.name:10}{step.offered_per_s:>10.1f}{step.answers_per_s:>11.1f}"
        f"{step.others_per_s:>10.1f}{step.work_per_s:>8.1f}{step.first_p99_ms:>10.0f}"
        f"{step.follow_up_p99_ms:>11.0f}"
        f"{step.total_p99_ms:>10.0f}{step.refused:>9.1%}{step.degraded:>10.1%}"
        f"  {step.failed or ''}",
        flush=True,
    )


def main() -> int:
    """Reads the options, runs, prints."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.overload", description=__doc__)
    parser.add_argument("--short", action="store_true", help="two minutes")
    parser.add_argument("--unlimited", action="store_true", help="without adaptive limits")
    parser.add_argument("--knee", type=float, help="requests a second, instead of the one found")
    options = parser.parse_args()
    slo = load_mix().slo
    print("starting a mesh that calls the simulator", flush=True)
    with tempfile.TemporaryDirectory(prefix="citemesh-overload-") as folder:
        home = Path(folder)
        home.chmod(0o711)
        limits = {"CITEMESH_ADAPTIVE_LIMIT": "false"} if options.unlimited else {}
        with started(home, limits) as mesh:
            fill(mesh, load_mix(), filler=20 if options.short else 200)
            print(
                f"{'step':10}{'offered/s':>10}{'answers/s':>11}{'others/s':>10}{'work/s':>8}"
                f"{'first p99':>10}{'follow-ups':>11}{'total p99':>10}{'refused':>9}"
                f"{'degraded':>10}  failed"
            )
            drivers = Drivers(home, {MAIN_KEY: mesh.api_key})
            run = Run(mesh.url, drivers, (6.0, 15.0) if options.short else (20.0, 60.0))
            began = time.monotonic()
            try:
                climb = [] if options.knee else run.climb()
                knee = options.knee or max(one.answers_per_s + one.others_per_s for one in climb)
                overload = run.overload(knee)
            finally:
                drivers.close()
            took = time.monotonic() - began
    most = max(step.work_per_s for step in [*climb, *overload])
    kept = round(overload[-1].work_per_s / most, 3)
    holds = kept >= GOODPUT_KEPT and all(step.holds(slo) for step in overload)
    print(
        json.dumps(
            {
                "knee_per_s": round(knee, 2),
                "goodput_share_at_3x": kept,
                "slo_ms": asdict(slo),
                "steps": [asdict(step) for step in [*climb, *overload]],
                "seconds": round(took, 1),
                "holds": holds,
            }
        )
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
