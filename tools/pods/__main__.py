"""`make pods`: runs the mesh of the chart as containers; a table and one JSON object.

    python -m tools.pods --helm .venv-k8s/bin/python [--kill NAME] [--roll NAME] [--cache DIR]

Exit code 1 when a request failed in peace or during the roll, a replica was not ready in time,
or something was left behind. Where podman is missing it says so in one line and ends with 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meshkit.components import BY_NAME
from tests.opensearch.node import Missing as OpenSearchMissing
from tests.opensearch.node import NodeFailed
from tools.pods.callers import Seen
from tools.pods.deployment import NotReady
from tools.pods.derive import Untranslated
from tools.pods.ground import ground
from tools.pods.images import MODULES, build
from tools.pods.podman import Missing, Podman, PodmanFailed, cache
from tools.pods.rendered import NotRendered
from tools.pods.resources import Dangling
from tools.pods.scenario import Plan, Report, play
from tools.tree import ROOT

LONGEST_SECONDS = 1500.0
"""For everything but the images, which are built first and kept."""


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


def summary(report: Report, left_behind: int, seconds: float) -> dict[str, Any]:
    """The JSON object of the last line."""
    phases: tuple[Seen, ...] = (report.asked, report.during_kill, report.during_roll)
    return {
        "images": len(MODULES),
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


async def _bounded(work: Any) -> Any:
    """Work that ends in time, and when this process is told to end."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with asyncio.timeout(LONGEST_SECONDS):
        return await task


def main() -> int:
    """Builds, runs, reports."""
    parser = argparse.ArgumentParser(prog="tools.pods")
    parser.add_argument("--helm", type=Path, default=ROOT / ".venv-k8s" / "bin" / "python")
    parser.add_argument("--kill", default="retrieval", choices=sorted(BY_NAME))
    parser.add_argument("--roll", default="generation", choices=sorted(BY_NAME))
    parser.add_argument("--cache", type=Path, default=cache(), help="where images are kept")
    chosen = parser.parse_args()
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", file=sys.stderr, flush=True)

    try:
        podman = Podman.here(chosen.cache)
    except Missing as missing:
        print(f"make pods is skipped: {missing}")
        return 0
    plan = Plan(chosen.helm, chosen.kill.replace("_", "-"), chosen.roll.replace("_", "-"))
    try:
        for target in build(podman, MODULES):
            say(f"image {target}")
        with ground(podman) as floor:
            report = asyncio.run(_bounded(play(floor, plan, say)))
    except (Missing, OpenSearchMissing) as missing:
        print(missing, file=sys.stderr)
        return 1
    except (
        Dangling,
        NodeFailed,
        NotReady,
        NotRendered,
        PodmanFailed,
        RuntimeError,
        TimeoutError,
        Untranslated,
    ) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    found = summary(report, floor.left_behind(), time.monotonic() - began)
    print("\n".join(table(report)))
    print(json.dumps(found))
    return 0 if holds(found) else 1


if __name__ == "__main__":
    sys.exit(main())
