"""`citemesh providers check`: which models answer, before the first upload; `reset`: try them now.

Local models are checked by a search of the running mesh that has to embed the query and to
rerank. APIs are called from here, once for each use, with the keys of this shell: every provider
that the settings name or that has a key. Of a mesh that was started with `--simulate` the
simulator is called.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshkit.cli.failure import CommandFailed
from meshkit.cli.options import AsJson, Data, Url

if TYPE_CHECKING:
    from pathlib import Path

    from meshkit.providers.check import Finding

app = typer.Typer(help="Check the providers of models.", no_args_is_help=True)

API_KEYS = {
    "gemini": "GEMINI_API_KEY",
    "cohere": "COHERE_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
}
USES = {"gemini": "embedding, generation", "cohere": "all", "anthropic": "generation"}
CHECK_SECONDS = 180


@app.callback()
def root() -> None:
    """Check the providers of models."""


@app.command()
def check(url: Url = None, data: Data = None, as_json: AsJson = False) -> None:
    """Check which providers work. Exit code 1 when one that is to be used does not."""
    from meshkit.cli.client import Client
    from meshkit.cli.output import print_json, table

    asked = {
        "query": "Does the embedding model answer?",
        "top_k": 1,
        "bypass_cache": True,
    }
    with Client.open(url, data) as client:
        found = client.request("POST", "/v1/search", json=asked)
    environment = {**os.environ, **simulated(data)}
    apis = api_findings(environment)
    findings = [*mesh_findings(found, "mesh" if apis else "local"), *apis]
    rest = without_key(environment, {finding.provider for finding in findings})
    if as_json:
        print_json([asdict(finding) for finding in [*findings, *rest]])
    else:
        columns = ("provider", "use", "works", "model", "remark")
        table(columns, [_row(finding) for finding in [*findings, *rest]])
    failed = [finding for finding in findings if not finding.works]
    if failed:
        names = ", ".join(f"{finding.provider} ({finding.use})" for finding in failed)
        raise CommandFailed(f"Not every provider answers: {names}.", "PROVIDER_UNAVAILABLE")


@app.command()
def reset(
    provider: Annotated[
        str, typer.Argument(metavar="[PROVIDER]", help="Such as gemini; all without it.")
    ] = "",
    url: Url = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Close circuit breakers by hand, in every process. Needs a key with the scope `admin`."""
    from meshkit.cli.client import Client
    from meshkit.cli.output import print_json

    with Client.open(url, data) as client:
        told = client.request("POST", "/v1/providers:reset", json={"provider": provider})
    if as_json:
        print_json(told)
    else:
        print(f"{told['closed']} breakers of {provider or 'all providers'} were closed.")
    if told["silent"]:
        raise CommandFailed(f"Not reached: {', '.join(told['silent'])}.", "OPERATIONS_INCOMPLETE")


def _row(finding: Finding) -> tuple[str, str, str, str, str]:
    ms = f"; {finding.ms:.0f} ms" if finding.ms is not None else ""
    cost = f", ${finding.cost_micro_usd / 1e6:.6f}" if finding.cost_micro_usd else ""
    remark = f"{finding.remark}{ms}{cost}"
    return finding.provider, finding.use, "yes" if finding.works else "no", finding.model, remark


def simulated(data: Path | None) -> dict[str, str]:
    """Variables that point to the simulator of the mesh of a data directory, if it has one."""
    from meshkit.supervisor.layout import DataDirectory
    from meshkit.supervisor.simulator import Simulator
    from meshkit.supervisor.state import read

    state = read(DataDirectory.at(data).state)
    children = state.children if state else []
    found = next((child for child in children if child.name == "simulator"), None)
    return Simulator(found.address).access() if found else {}


def mesh_findings(found: dict[str, Any], name: str) -> list[Finding]:
    """What a search tells about the models of the mesh: it names the stages that were missing.

    Args:
        found: Response of the search.
        name: Whom to call the provider: `local` where there is no other.
    """
    from meshkit.providers.check import Finding

    missing, timings = set(found["degraded"]), found.get("timings_ms", {})
    embed = Finding(name, "embedding", "dense" not in missing, _took(timings, "embed"))
    if found["hits"]:
        rerank = Finding(name, "rerank", "rerank" not in missing, _took(timings, "rerank"))
    else:
        remark = "not tried: there is no document to rerank yet"
        rerank = Finding(name, "rerank", "rerank" not in missing, remark)
    return [embed, rerank]


def _took(timings: dict[str, float], stage: str) -> str:
    return f"answered in {timings[stage]:.1f} ms" if stage in timings else ""


def api_findings(environment: Mapping[str, str]) -> list[Finding]:
    """What each service says of the APIs it calls.

    Raises:
        CommandFailed: a service could not even try.
    """
    from meshkit.providers.check import MODULES

    with ThreadPoolExecutor(len(MODULES)) as pool:
        return [
            finding
            for found in pool.map(lambda module: _check(module, environment), MODULES)
            for finding in found
        ]


def _check(module: str, environment: Mapping[str, str]) -> list[Finding]:
    from meshkit.providers.check import Finding

    done = subprocess.run(  # noqa: S603 - a module of ours
        [sys.executable, "-P", "-m", module],
        env={**environment, "CITEMESH_LOG_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        timeout=CHECK_SECONDS,
        check=False,
    )
    if done.returncode:
        line = (done.stderr.strip().splitlines() or [f"{module} ended"])[-1]
        raise CommandFailed(line, "PROVIDER_CHECK_FAILED")
    return [Finding(**json.loads(line)) for line in done.stdout.splitlines() if line[:1] == "{"]


def without_key(environment: Mapping[str, str], tried: set[str]) -> list[Finding]:
    """The APIs that were not tried because there is no key."""
    from meshkit.providers.check import Finding

    return [
        Finding(name, USES[name], False, f"not tried: {variable} is not set here")
        for name, variable in API_KEYS.items()
        if name not in tried and not environment.get(variable)
    ]
