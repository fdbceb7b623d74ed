"""What checkov has to say about the resources, less the exceptions that have a reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools.k8s.exceptions import Policy


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that a resource breaks."""

    check: str
    name: str
    """What the rule asks."""
    kind: str
    resource: str


@dataclass(frozen=True, slots=True)
class Report:
    """Of one run."""

    passed: int
    """Rules that held, over all resources."""
    findings: tuple[Finding, ...]


def write(resources: Iterable[Mapping[str, Any]], folder: Path, namespace: str) -> None:
    """Puts resources where checkov reads them, in the namespace that Helm would put them in."""
    placed = [
        {**each, "metadata": {"namespace": namespace, **each["metadata"]}} for each in resources
    ]
    with (folder / "resources.yaml").open("w") as file:
        yaml.dump_all(placed, file, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))


def start(folder: Path) -> subprocess.Popen[str]:
    """Runs checkov over a folder, beside whatever else is done."""
    return subprocess.Popen(
        (
            *(sys.executable, "-m", "checkov.main", "--directory", str(folder)),
            *("--framework", "kubernetes", "--skip-download", "--output", "json", "--soft-fail"),
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LOG_LEVEL": "ERROR"},
    )


def finish(running: subprocess.Popen[str]) -> Report:
    """What it found.

    Raises:
        RuntimeError: it broke, could not read a resource, or read none.
    """
    said, complaint = running.communicate()
    if running.returncode:
        raise RuntimeError(f"checkov ended with {running.returncode}: {complaint[-2000:]}")
    return report(json.loads(said))


def report(said: Mapping[str, Any]) -> Report:
    """Checkov's own report, read.

    Raises:
        RuntimeError: it could not read a resource, or read none.
    """
    summary = said.get("summary", said)
    if summary["parsing_errors"] or not summary["passed"]:
        raise RuntimeError(f"checkov did not read the resources: {summary}")
    findings = []
    for each in said["results"]["failed_checks"]:
        kind, _, resource = each["resource"].partition(".")
        findings.append(Finding(each["check_id"], each["check_name"], kind, resource))
    return Report(summary["passed"], tuple(findings))


def left(
    findings: Sequence[Finding], exceptions: Sequence[Policy], used: set[Policy]
) -> Iterator[Finding]:
    """Findings that no exception lifts; `used` collects the exceptions that were needed."""
    for finding in findings:
        lifted = [
            each
            for each in exceptions
            if each.check == finding.check and finding.kind in each.kinds
        ]
        used.update(lifted)
        if not lifted:
            yield finding
