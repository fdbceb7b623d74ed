"""`make chaos [SHORT=1]`: one fault after the other under load; a table and one JSON object.

Exit code 1 when a caller saw what it may not see, an acknowledged document is lost, or the
mesh took longer than half a minute to be well again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from loadtest.bench.running import RunningMesh, running_mesh
from loadtest.chaos_ingest.rounds import Mesh
from loadtest.chaos_ingest.victims import Victims
from meshkit.supervisor.layout import DataDirectory
from tests.chaos.callers import Callers, Seen
from tests.chaos.cases import (
    CASES,
    LONG_SECONDS,
    SHORT_SECONDS,
    Case,
    NotHere,
    Scene,
    small_disk,
)
from tests.chaos.clock import Clocks, Unsettable
from tests.chaos.proxy import Line
from tests.chaos.search_node import SearchNode
from tests.opensearch.node import Missing

BEHIND_LINES = ("embedding", "guardrail", "retrieval", "generation", "ingestion")
RECOVERY_SECONDS = 30.0
PATIENCE_SECONDS = 60.0
FOUND_SECONDS = 60.0
WARM_UP_SECONDS = 0.5
UNLIMITED = "1000000/minute"


@dataclass(slots=True)
class Verdict:
    """What one case came to."""

    case: Case
    seen: Seen
    recovery_s: float = 0.0
    found_s: float = 0.0
    """When every acknowledged document was found, those uploaded last among them."""
    lost: int = 0
    broken: list[str] = field(default_factory=list)
    """Promises that were; empty when the case held."""


async def go(case: Case, scene: Scene, callers: Callers) -> Verdict:
    """Does it to a mesh with callers, and judges what they saw."""
    seen = callers.seen = Seen()
    verdict = Verdict(case, seen)
    async with callers.busy():
        await asyncio.sleep(WARM_UP_SECONDS)
        began = time.monotonic()
        async with case.fault(scene):
            since = began if case.at_once else time.monotonic()
        complaint = ""
        while time.monotonic() - since < PATIENCE_SECONDS and not await callers.well():
            complaint = callers.complaint
            await asyncio.sleep(0.05)
        verdict.recovery_s = round(time.monotonic() - since, 2)
    if verdict.recovery_s > RECOVERY_SECONDS:
        verdict.broken.append(f"not well {RECOVERY_SECONDS:g} s later: {complaint or 'not back'}")
    missing = await callers.lost(seen.uploaded, FOUND_SECONDS)
    verdict.found_s = round(time.monotonic() - since, 2)
    verdict.lost = len(missing)
    verdict.broken += [f"lost: {document}" for document in missing]
    verdict.broken += seen.wrong
    for kind, count in seen.refused.items():
        if kind not in case.refused:
            verdict.broken.append(f"{count} times {kind} refused: {dict(seen.reasons)}")
    if not case.breaks:
        verdict.broken += [f"{count} times {kind} cut off" for kind, count in seen.broken.items()]
    return verdict


def show(verdict: Verdict) -> None:
    """A row of the table, what was broken below it."""
    seen = verdict.seen
    told = seen.reasons + Counter({f"without {name}": n for name, n in seen.missing.items()})
    reasons = ", ".join(f"{count} {reason}" for reason, count in told.most_common())
    print(
        f"{verdict.case.name:26}{'held' if not verdict.broken else 'BROKEN':8}"
        f"{verdict.recovery_s:>8.1f} s{verdict.found_s:>8.1f} s"
        f"{seen.good.total():>6}{seen.degraded.total():>10}"
        f"{seen.refused.total():>9}{seen.busy:>6}{seen.broken.total():>8}"
        f"{seen.slowest_seconds:>8.1f} s"
        f"  {reasons}",
        flush=True,
    )
    for broken in verdict.broken:
        print(f"    {broken}", flush=True)


@asynccontextmanager
async def opened(
    home: Path, *, seconds: float, opensearch: bool
) -> AsyncIterator[tuple[Scene, Callers]]:
    """A mesh with lines between its services, and callers who know what it should say.

    Raises:
        NotHere: this machine has no OpenSearch.
    """
    data = DataDirectory.at(home / "data")
    victims = Victims(data)
    async with AsyncExitStack() as stack:
        lines = {name: Line(partial(victims.port, name)) for name in BEHIND_LINES}
        node = await _search_node(stack, home / "opensearch") if opensearch else None
        if node:
            lines["opensearch"] = Line(lambda: node.port)
        for line in lines.values():
            await line.listen()
            stack.push_async_callback(line.close)
        disk = await stack.enter_async_context(small_disk(home / "blobs"))
        clocks = settable_clocks(home / "clocks")
        settings = {
            "CITEMESH_GATEWAY_KEY_LIMIT": UNLIMITED,
            "CITEMESH_GATEWAY_ADDRESS_LIMIT": UNLIMITED,
            # On a machine that does other things besides, what is missing is still the fault's.
            "CITEMESH_RETRIEVAL_RERANK_SECONDS": "2",
            "CITEMESH_RETRIEVAL_RERANK_SHARE": "0.9",
            **{
                f"CITEMESH_{name.upper()}_ADDRESS": f"127.0.0.1:{line.port}"
                for name, line in lines.items()
                if name in BEHIND_LINES
            },
            **({"CITEMESH_BLOB_URL": disk.as_uri()} if disk else {}),
            **(clocks.environment if clocks else {}),
        }
        if node:
            url = f"http://127.0.0.1:{lines['opensearch'].port}"
            settings |= {"CITEMESH_OPENSEARCH_URL": url}
        running = await _in_thread(stack, data, settings)
        _, key = await Mesh(running.url, data).project()
        callers = Callers(running.url, key)
        stack.push_async_callback(callers.close)
        await callers.fill()
        yield Scene(seconds, victims, lines, disk, clocks, node), callers


def settable_clocks(folder: Path) -> Clocks | None:
    """Clocks of the mesh, where they can be set."""
    try:
        return Clocks(folder)
    except Unsettable:
        return None


async def _in_thread(
    stack: AsyncExitStack, data: DataDirectory, settings: dict[str, str]
) -> RunningMesh:
    """The mesh, whose start waits: the lines serve meanwhile."""
    context = running_mesh(data.root, settings)
    running = await asyncio.to_thread(context.__enter__)
    stack.push_async_callback(asyncio.to_thread, context.__exit__, None, None, None)
    return running


async def _search_node(stack: AsyncExitStack, home: Path) -> SearchNode:
    node = SearchNode(home)
    try:
        await node.start()
    except Missing as missing:
        raise NotHere(str(missing)) from None
    stack.push_async_callback(node.stop)
    return node


async def judged(case: Case, scene: Scene, callers: Callers) -> Verdict | None:
    """Its row is shown as it ends; None when this machine cannot do it."""
    try:
        verdict = await go(case, scene, callers)
    except NotHere as reason:
        print(f"{case.name:26}skipped  {reason}", flush=True)
        return None
    show(verdict)
    return verdict


async def run(home: Path, cases: Sequence[Case], seconds: float) -> list[Verdict]:
    """Every case; those with OpenSearch in a mesh of their own."""
    verdicts: list[Verdict] = []
    for opensearch in (False, True):
        chosen = [case for case in cases if case.opensearch == opensearch]
        if not chosen:
            continue
        folder = home / ("opensearch" if opensearch else "plain")
        folder.mkdir()
        folder.chmod(0o711)
        try:
            async with opened(folder, seconds=seconds, opensearch=opensearch) as (scene, callers):
                verdicts += [
                    verdict for case in chosen if (verdict := await judged(case, scene, callers))
                ]
        except NotHere as reason:
            print(f"{', '.join(case.name for case in chosen)}: skipped, {reason}", flush=True)
    return verdicts


def summary(verdicts: list[Verdict], seconds: float) -> dict[str, Any]:
    """All cases together, for the last line."""
    held = sum(not verdict.broken for verdict in verdicts)
    return {
        "cases": len(verdicts),
        "held": held,
        "recovered": sum(verdict.recovery_s <= RECOVERY_SECONDS for verdict in verdicts),
        "lost": sum(verdict.lost for verdict in verdicts),
        "wrong_answers": sum(len(verdict.seen.wrong) for verdict in verdicts),
        "recovery_max_s": max((verdict.recovery_s for verdict in verdicts), default=0.0),
        "found_max_s": max((verdict.found_s for verdict in verdicts), default=0.0),
        "acknowledged": sum(len(verdict.seen.uploaded) for verdict in verdicts),
        "good": sum(verdict.seen.good.total() for verdict in verdicts),
        "degraded": sum(verdict.seen.degraded.total() for verdict in verdicts),
        "refused": sum(verdict.seen.refused.total() for verdict in verdicts),
        "broken": {v.case.name: v.broken for v in verdicts if v.broken},
        "seconds": round(seconds, 1),
    }


def main() -> int:
    """Reads the options, runs, prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a dozen of the cases")
    parser.add_argument("--only", nargs="*", default=[], help="cases whose names hold one of these")
    parser.add_argument("--keep", type=Path, help="folder for the mesh's data, kept afterwards")
    options = parser.parse_args()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Whoever ends us finds no mesh and no file system left behind: as with Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    cases = [
        case
        for case in CASES
        if (case.short or not options.short)
        and (not options.only or any(word in case.name for word in options.only))
    ]
    began = time.monotonic()
    print(
        f"{'case':26}{'':8}{'well after':>10}{'all found':>10}"
        f"{'good':>6}{'degraded':>10}{'refused':>9}{'busy':>6}"
        f"{'cut off':>8}{'slowest':>10}  reasons"
    )
    with tempfile.TemporaryDirectory(prefix="citemesh-chaos-") as folder:
        home = options.keep or Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o711)
        seconds = SHORT_SECONDS if options.short else LONG_SECONDS
        verdicts = asyncio.run(run(home, cases, seconds))
    found = summary(verdicts, time.monotonic() - began)
    print(json.dumps(found))
    return 0 if verdicts and found["held"] == found["cases"] else 1


if __name__ == "__main__":
    sys.exit(main())
