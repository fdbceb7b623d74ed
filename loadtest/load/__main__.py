"""`python -m loadtest.load SCENARIO`: measures, writes the report, prints what matters."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadtest.load import page, streams
from loadtest.load.environment import describe
from loadtest.load.mix import load_mix
from loadtest.load.report import assemble, summary
from loadtest.load.run import Run
from loadtest.load.scenarios import SCENARIOS, scenario


def main() -> int:
    """Exit code 1 when something that was checked does not hold."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.load", description=__doc__)
    parser.add_argument("scenario", choices=sorted([*SCENARIOS, streams.NAME]))
    parser.add_argument("--short", action="store_true", help="minutes instead of an hour")
    parser.add_argument("--knee", type=float, help="requests a second, instead of the one measured")
    parser.add_argument(
        "--provider",
        choices=("anthropic", "gemini", "cohere"),
        default="anthropic",
        help="whose model writes in `streams`",
    )
    parser.add_argument("--out", type=Path, default=Path("reports"), help="folder of the report")
    options = parser.parse_args()
    environment = describe()
    with tempfile.TemporaryDirectory(prefix="citemesh-load-") as folder:
        home = Path(folder)
        home.chmod(0o711)
        last = (
            _streams(options, environment, home)
            if options.scenario == streams.NAME
            else (_scenario(options, environment, home))
        )
    print(json.dumps(last))
    return 1 if last["failed"] else 0


def _scenario(
    options: argparse.Namespace, environment: dict[str, Any], home: Path
) -> dict[str, Any]:
    chosen = scenario(options.scenario, short=options.short)
    seen = Run(chosen, short=options.short, knee=options.knee, say=_say).go(home)
    report = assemble(chosen, load_mix(), seen, environment, short=options.short)
    files = write(report, page.render(report), options.out)
    show(report)
    return summary(report, files)


def _streams(
    options: argparse.Namespace, environment: dict[str, Any], home: Path
) -> dict[str, Any]:
    course = streams.SHORT if options.short else streams.FULL
    found = streams.measure(home, course, options.provider, _say)
    report = streams.report(found, environment)
    return streams.summary(report, write(report, streams.render(report), options.out))


def write(report: dict[str, Any], html: str, folder: Path) -> dict[str, str]:
    """Writes both files; returns where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"load-{report['scenario']}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    data, sheet = folder / f"{name}.json", folder / f"{name}.html"
    data.write_text(json.dumps(report, indent=1) + "\n")
    sheet.write_text(html)
    return {"report": str(data), "html": str(sheet)}


def show(report: dict[str, Any]) -> None:
    """A table for the terminal."""
    print(f"\n{'step':24s} {'due/s':>7s} {'good/s':>7s} {'first p50':>10s} {'p95 ms':>8s}"
          f" {'answer p95':>11s} {'errors':>7s} {'degraded':>9s} {'right':>6s}")  # fmt: skip
    for step in report["steps"]:
        first, total = step["first_ms"], step["total_ms"]
        print(
            f"{step['name']:24s} {step['offered_per_s']:7.2f} {step['goodput_per_s']:7.2f}"
            f" {first['p50'] or 0:10.0f} {first['p95'] or 0:8.0f} {total['p95'] or 0:11.0f}"
            f" {step['error_share']:7.2%} {step['degraded_share']:9.2%}"
            f" {step['quality']['right'] or 0:6.1%}"
        )
    print()
    for check in report["checks"]:
        verdict = "ok    " if check["holds"] else "FAILED"
        print(f"{verdict} {check['name']}: {check['value']} {check['sign']} {check['limit']}")
    print()


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
