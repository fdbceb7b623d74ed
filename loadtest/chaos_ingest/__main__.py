"""`make chaos-ingest`: a table a round, and one JSON object as the last line."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from loadtest.bench.running import running_mesh
from loadtest.chaos_ingest.faults import RECOVERY_SECONDS
from loadtest.chaos_ingest.rounds import MUST_BE_ZERO, Mesh, Verdict, run_round
from meshkit.supervisor.layout import DataDirectory

SHOWN = (
    "documents",
    "acknowledged",
    "ready",
    "failed",
    "deleted",
    "kills",
    "freezes",
    *MUST_BE_ZERO,
    "seconds",
)


def total(verdicts: list[Verdict]) -> dict[str, Any]:
    """All rounds together, for the last line."""
    summed: dict[str, Any] = {"rounds": len(verdicts)}
    for name in (*SHOWN, "refused", "searches"):
        summed[name] = round(sum(getattr(verdict, name) for verdict in verdicts), 1)
    recoveries = sorted(seconds for verdict in verdicts for seconds in verdict.recovery_s)
    summed["recoveries"] = len(recoveries)
    summed["recovery_max_s"] = round(recoveries[-1], 2) if recoveries else None
    troubles: Counter[str] = sum((verdict.troubles for verdict in verdicts), Counter())
    summed["answers_repeated"] = dict(troubles.most_common())
    return summed


def holds(summed: dict[str, Any]) -> bool:
    """Whether everything that must be so is."""
    recovered = summed["recovery_max_s"] is None or summed["recovery_max_s"] <= RECOVERY_SECONDS
    return recovered and not any(summed[name] for name in MUST_BE_ZERO)


def show(number: int, verdict: Verdict) -> None:
    """A round as a line or two, problems below it."""
    parts = [f"{name} {getattr(verdict, name)}" for name in SHOWN if getattr(verdict, name)]
    recovered = [round(seconds, 1) for seconds in verdict.recovery_s]
    print(f"round {number}: {', '.join(parts)}; recovered after {recovered} s", flush=True)
    for problem in verdict.problems:
        print(f"    {problem}", flush=True)


async def rounds(mesh: Mesh, options: argparse.Namespace) -> list[Verdict]:
    """Every round, shown as it ends."""
    verdicts = []
    for number in range(options.rounds):
        verdict = await run_round(mesh, options.documents, options.seed + 1000 * number)
        show(number + 1, verdict)
        verdicts.append(verdict)
    return verdicts


def main() -> None:
    """Reads the options, runs, prints; exit code 1 when something must not be so."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.chaos_ingest", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--documents", type=int, default=300, help="documents a round")
    parser.add_argument("--seed", type=int, default=1, help="decides files, fates and faults")
    parser.add_argument("--keep", type=Path, help="folder for the mesh's data, kept afterwards")
    options = parser.parse_args()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="citemesh-chaos-") as folder:
        home = options.keep or Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o711)
        with running_mesh(home / "data", {}) as running:
            mesh = Mesh(running.url, DataDirectory.at(home / "data"))
            verdicts = asyncio.run(rounds(mesh, options))
    summed = total(verdicts)
    print(json.dumps(summed | {"holds": holds(summed)}))
    raise SystemExit(0 if holds(summed) else 1)


if __name__ == "__main__":
    main()
