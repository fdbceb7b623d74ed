"""`make bench-telemetry`: what looking costs. Throughput with telemetry on against off.

Two meshes run at the same time. One sends a tenth of its traces to a collector that keeps
nothing, is scraped as by Prometheus and writes its access log, as the chart's profile prod has
it; the other one has all of it turned off. Both hold the same documents. They are asked in turn,
window by window, so that whatever else the machine does meets both; the other one rests
meanwhile. The ratio of each pair of neighbouring windows is a sample.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from loadtest.bench import corpus
from loadtest.bench.__main__ import search_once
from loadtest.bench.running import RawClient, RunningMesh, await_ready, running_mesh, upload
from loadtest.bench.statistics import Summary, summary
from meshkit.supervisor.ports import pick

LIMIT = 0.05
"""Most throughput that telemetry may cost."""
SCRAPE_SECONDS = 15.0
SAMPLES = corpus.SAMPLES

OFF = {"OTEL_SDK_DISABLED": "true", "CITEMESH_TRACE_FILE": "", "CITEMESH_ACCESS_LOG": "off"}


def on(collector: int) -> dict[str, str]:
    """As it runs in production: sampled, exported, scraped, logged."""
    return {
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector}",
        "OTEL_METRICS_EXPORTER": "none",
        "CITEMESH_TRACE_FILE": "",
        "CITEMESH_METRICS_LISTEN": "127.0.0.1:0",
    }


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request and how it is asked."""

    name: str
    ask: Callable[[RawClient, str], None]
    clients: int
    """Each waits for its answer; few enough that admission turns nobody away."""


def search(client: RawClient, question: str) -> None:
    """A search without the cross-encoder: the least work there is to hide a cost behind."""
    search_once(client, question, rerank=False)


def answer(client: RawClient, question: str) -> None:
    """A whole answer: every service takes part."""
    client.post("/v1/answers", {"question": question, "bypass_cache": True})


KINDS = (Kind("search", search, 8), Kind("answer", answer, 2))


@contextmanager
def collector() -> Iterator[tuple[int, list[dict[str, int]]]]:
    """A collector's port, and after the block what came to it."""
    port = pick()
    came: list[dict[str, int]] = []
    sink = subprocess.Popen(
        [sys.executable, "-m", "loadtest.bench.otlp_sink", str(port)], stdout=subprocess.PIPE
    )
    try:
        yield port, came
    finally:
        sink.terminate()
        written, _ = sink.communicate(timeout=30)
        came.append(json.loads(written))


def metrics_ports(mesh: RunningMesh) -> list[int]:
    """Where the processes of a mesh serve their metrics, from their logs."""
    found = []
    for path in (mesh.data / "logs").glob("*.log"):
        lines = [line for line in path.read_text().splitlines() if "metrics are served" in line]
        found += [json.loads(line)["port"] for line in lines[-1:]]
    return found


@contextmanager
def scraped(mesh: RunningMesh) -> Iterator[None]:
    """Scrapes every process as often as Prometheus does."""
    ports, ending = metrics_ports(mesh), threading.Event()
    if not ports:
        raise RuntimeError("no process of the mesh serves metrics")

    def scrape() -> None:
        with httpx.Client(trust_env=False, timeout=30) as client:
            while not ending.wait(SCRAPE_SECONDS):
                for port in ports:
                    client.get(f"http://127.0.0.1:{port}/metrics").raise_for_status()

    scraper = threading.Thread(target=scrape, daemon=True)
    scraper.start()
    try:
        yield
    finally:
        ending.set()
        scraper.join()


def window(mesh: RunningMesh, kind: Kind, texts: Sequence[str], seconds: float, seed: int) -> float:
    """Requests a second of some clients that each wait for their answers."""
    until = time.monotonic() + seconds

    def ask(number: int) -> int:
        done = 0
        asked = corpus.questions(texts, 2000, seed=seed + number)
        with mesh.raw_client() as client:
            while time.monotonic() < until:
                kind.ask(client, asked[done % len(asked)])
                done += 1
        return done

    started = time.monotonic()
    with ThreadPoolExecutor(kind.clients) as pool:
        total = sum(pool.map(ask, range(kind.clients)))
    return total / (time.monotonic() - started)


def fill(mesh: RunningMesh) -> list[str]:
    """Puts the samples in; returns the texts that questions are made from."""
    texts = [path.read_text("utf-8") for path in sorted(SAMPLES.glob("*.md"))]
    with mesh.client() as client:
        for number in range(4):
            content = corpus.document_text(texts, paragraphs=12, seed=number)
            await_ready(client, upload(client, f"report-{number}.md", content))
    return texts


@dataclass(frozen=True, slots=True)
class Measured:
    """Windows of one kind of request, in pairs."""

    on: list[float]
    off: list[float]

    @property
    def overhead(self) -> Summary:
        """Share of throughput that is lost, over the pairs."""
        return summary([1 - a / b for a, b in zip(self.on, self.off, strict=True)])


def measure(
    seen: RunningMesh, dark: RunningMesh, kind: Kind, texts: list[str], pairs: int, seconds: float
) -> Measured:
    """Asks both in turn; which one comes first changes by chance."""
    chance = random.Random(5)
    found: dict[RunningMesh, list[float]] = {seen: [], dark: []}
    for mesh in (seen, dark):
        window(mesh, kind, texts, seconds, seed=0)
    for number in range(pairs):
        order = [seen, dark]
        chance.shuffle(order)
        for mesh in order:
            found[mesh].append(window(mesh, kind, texts, seconds, seed=1000 * (number + 1)))
    return Measured(found[seen], found[dark])


def bench(pairs: int, seconds: float) -> dict[str, Any]:
    """The whole run; prints a table."""
    result: dict[str, Any] = {"sampled": 0.1, "limit": LIMIT}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="citemesh-seen-")))
        folder.chmod(0o711)
        port, came = stack.enter_context(collector())
        meshes = []
        for name, settings in (("on", on(port)), ("off", OFF)):
            home = folder / name
            home.mkdir()
            home.chmod(0o711)
            meshes.append(stack.enter_context(running_mesh(home / "data", settings)))
        seen, dark = meshes
        texts = fill(seen)
        fill(dark)
        stack.enter_context(scraped(seen))
        print(f"{'requests a second':20} {'on':>8} {'off':>8}   overhead [95 % interval]")
        for kind in KINDS:
            measured = measure(seen, dark, kind, texts, pairs, seconds)
            cost = measured.overhead
            medians = summary(measured.on).p50, summary(measured.off).p50
            print(
                f"{kind.name:20} {medians[0]:8.1f} {medians[1]:8.1f}   {cost.p50:+.1%}"
                f" [{cost.low:+.1%}, {cost.high:+.1%}]  {pairs} pairs",
                flush=True,
            )
            result[kind.name] = {
                "on_per_s": round(medians[0], 1),
                "off_per_s": round(medians[1], 1),
                "overhead": round(cost.p50, 4),
                "interval": [round(cost.low, 4), round(cost.high, 4)],
            }
    result["collector"] = came[0]
    if not came[0].get("spans"):
        raise RuntimeError("the collector received nothing: telemetry was not on")
    return result


def main() -> int:
    """Reads the options, measures, prints; 1 when telemetry costs more than it may."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.telemetry", description=__doc__)
    parser.add_argument("--pairs", type=int, default=20, help="pairs of windows for each kind")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a window")
    parser.add_argument("--short", action="store_true", help="6 pairs of 3 seconds")
    options = parser.parse_args()
    if options.short:
        options.pairs, options.seconds = 6, 3.0
    result = bench(options.pairs, options.seconds)
    print(json.dumps({"telemetry": result}))
    return 0 if all(result[kind.name]["overhead"] <= LIMIT for kind in KINDS) else 1


if __name__ == "__main__":
    sys.exit(main())
