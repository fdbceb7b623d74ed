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
from pathlib import Path
from typing import Any

from meshkit.components import BY_NAME
from tests.opensearch.node import Missing as OpenSearchMissing
from tests.opensearch.node import NodeFailed
from tools.pods.deployment import NotReady
from tools.pods.derive import Untranslated
from tools.pods.ground import ground
from tools.pods.images import MODULES, build
from tools.pods.podman import Missing, Podman, PodmanFailed, cache
from tools.pods.rendered import NotRendered
from tools.pods.resources import Dangling
from tools.pods.scenario import Plan, play
from tools.pods.summary import holds, summary, table
from tools.tree import ROOT

LONGEST_SECONDS = 1500.0
"""For everything but the images, which are built first and kept."""


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
    # An exception, so that what runs is ended and removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", file=sys.stderr, flush=True)

    try:
        podman = Podman.here(chosen.cache)
    except Missing as missing:
        print(f"make pods is skipped: {missing}")
        return 0
    plan = Plan(chosen.helm, chosen.kill.replace("_", "-"), chosen.roll.replace("_", "-"))
    try:
        with podman.alone():
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
    found = summary(
        report,
        images=len(MODULES),
        left_behind=floor.left_behind(),
        seconds=time.monotonic() - began,
    )
    print("\n".join(table(report)))
    print(json.dumps(found))
    return 0 if holds(found) else 1


if __name__ == "__main__":
    sys.exit(main())
