"""`make check`: everything that can be said about the project without running it.

    python -m tools.check            # all, two at a time
    python -m tools.check types      # only these

Prints what each failing check printed, then a table. Nothing here needs a
network, git or a running mesh.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Check:
    """One command and what it shows."""

    name: str
    shows: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """How a check ended."""

    check: Check
    passed: bool
    output: str
    seconds: float


def program(name: str, *arguments: str) -> tuple[str, ...]:
    """A program of this environment."""
    return (str(Path(sys.executable).with_name(name)), *arguments)


def tool(name: str, *arguments: str) -> tuple[str, ...]:
    """One of our own tools."""
    return (sys.executable, "-m", f"tools.{name}", *arguments)


# The slow ones first, so that the quick ones fill the other core.
CHECKS = (
    Check("types", "mypy --strict", program("mypy")),
    Check("lint", "ruff check", program("ruff", "check", "--quiet", ".")),
    Check("format", "ruff format", program("ruff", "format", "--check", "--quiet", ".")),
    Check("contracts", "buf format, lint, breaking", tool("contracts", "check")),
    Check("imports", "import-linter", program("lint-imports", "--no-logo")),
    Check("secrets", "detect-secrets", tool("secret_scan")),
    Check("dependencies", "versions, advisories, licences", tool("dependencies")),
    Check("tree", "house rules of files", tool("tree")),
    Check("configuration", "docs/configuration.md is current", tool("configuration")),
    Check("errors", "docs/errors.md is current", tool("errors")),
    Check("telemetry", "docs/telemetry.md is current", tool("telemetry")),
    Check("variables", "the chart's list of settings", tool("k8s.variables")),
    Check("postgres", "the SQL for a Postgres of one's own", tool("k8s.postgres")),
    Check("observability", "dashboards, alerts, runbook", tool("observability")),
)


def run(check: Check) -> Result:
    """Runs one check with its output kept."""
    began = time.monotonic()
    done = subprocess.run(
        check.command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return Result(check, done.returncode == 0, done.stdout.strip(), time.monotonic() - began)


def table(results: list[Result]) -> Iterator[str]:
    """A line a check."""
    for result in results:
        verdict = "ok" if result.passed else "FAILED"
        name, shows = result.check.name, result.check.shows
        yield f"{verdict:6}  {name:14} {shows:34} {result.seconds:6.1f} s"


def main(names: list[str]) -> int:
    """Runs the named checks, or all; 1 when one failed."""
    unknown = set(names) - {check.name for check in CHECKS}
    if unknown:
        print(f"No check is named {', '.join(sorted(unknown))}.", file=sys.stderr)
        return 2
    chosen = [check for check in CHECKS if not names or check.name in names]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(run, chosen))
    for result in results:
        if not result.passed:
            print(f"--- {result.check.name}: {' '.join(result.check.command)}\n{result.output}\n")
    print("\n".join(table(results)))
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
