"""`citemesh providers check`: which models answer, before the first upload.

This release runs local models only. They are checked by using them: one search that has to embed
the query and to rerank. For the API providers it says whether a key is set here, and that nothing
uses it yet.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import typer

from meshkit.cli.failure import CommandFailed
from meshkit.cli.options import AsJson, Data, Url

app = typer.Typer(help="Check the providers of models.", no_args_is_help=True)

API_KEYS = {
    "gemini": "GEMINI_API_KEY",
    "cohere": "COHERE_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
}
NOT_YET = "its adapter arrives in a later release; nothing uses it yet"


@app.callback()
def root() -> None:
    """Check the providers of models."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one provider for one use."""

    provider: str
    use: str
    works: bool
    remark: str


@app.command()
def check(url: Url = None, data: Data = None, as_json: AsJson = False) -> None:
    """Check which providers work. Exit code 1 when the local models do not."""
    from meshkit.cli.client import Client
    from meshkit.cli.output import print_json, table

    asked = {
        "query": "Does the embedding model answer?",
        "top_k": 1,
        "bypass_cache": True,
    }
    with Client.open(url, data) as client:
        found = client.request("POST", "/v1/search", json=asked)
    findings = [*local_findings(found), *api_findings()]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = [(f.provider, f.use, "yes" if f.works else "no", f.remark) for f in findings]
        table(("provider", "use", "works", "remark"), rows)
    if any(finding.provider == "local" and not finding.works for finding in findings):
        raise CommandFailed("A local model does not answer.", "PROVIDER_UNAVAILABLE")


def local_findings(found: dict[str, Any]) -> list[Finding]:
    """What a search tells about the local models: it names the stages that were missing."""
    missing, timings = set(found["degraded"]), found.get("timings_ms", {})
    embed = Finding("local", "embedding", "dense" not in missing, _took(timings, "embed"))
    if found["hits"]:
        rerank = Finding("local", "rerank", "rerank" not in missing, _took(timings, "rerank"))
    else:
        remark = "not tried: there is no document to rerank yet"
        rerank = Finding("local", "rerank", "rerank" not in missing, remark)
    return [embed, rerank]


def _took(timings: dict[str, float], stage: str) -> str:
    return f"answered in {timings[stage]:.1f} ms" if stage in timings else ""


def api_findings() -> list[Finding]:
    """Which API keys are set in this shell."""
    return [
        Finding(name, "all", False, f"{variable} is {_set(variable)}; {NOT_YET}")
        for name, variable in API_KEYS.items()
    ]


def _set(variable: str) -> str:
    return "set here" if os.environ.get(variable) else "not set here"
