"""The mesh under load: started, filled, told what to break, and its projects' keys."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from loadtest.bench.running import RunningMesh, running_mesh, upload
from loadtest.load.mix import Mix, notes
from meshkit.ids import new_id
from meshkit.supervisor.layout import DataDirectory
from meshkit.supervisor.state import read

UNLIMITED = "1000000/minute"
SAMPLED = "0.1"
SAMPLED_SHORT = "0.5"
"""Share of the requests that are traced; a short run has too few for a tenth."""
READY_SECONDS = 600.0
AT_ONCE = 4
CATALOGUE = """
[[model]]
provider = "gemini"
operation = "generate"
model = "gemini-3.8-flash"
requests_per_minute = 1_000_000
tokens_per_minute = 1_000_000_000
requests_per_day = 100_000_000

[[model]]
provider = "gemini"
operation = "embed"
model = "gemini-embedding-001"
requests_per_minute = 1_000_000
tokens_per_minute = 1_000_000_000

[[model]]
provider = "anthropic"
operation = "generate"
model = "claude-haiku-5-5"
requests_per_minute = 1_000_000
tokens_per_minute = 1_000_000_000

[[model]]
provider = "cohere"
operation = "generate"
model = "command-a-03-2025"
requests_per_minute = 1_000_000

[[model]]
provider = "cohere"
operation = "rerank"
model = "rerank-v5.0-fast"
requests_per_minute = 1_000_000
"""
"""Quotas that are in nobody's way: a run looks for the mesh's limits, not for a contract's."""


def settings(home: Path) -> dict[str, str]:
    """Variables of a mesh whose limits are those of its code and machine."""
    catalogue = home / "catalogue.toml"
    catalogue.write_text(CATALOGUE)
    return {
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": SAMPLED,
        "CITEMESH_PROVIDER_CATALOGUE": str(catalogue),
        "CITEMESH_GATEWAY_KEY_LIMIT": UNLIMITED,
        "CITEMESH_GATEWAY_ADDRESS_LIMIT": UNLIMITED,
    }


@contextmanager
def started(home: Path, more: Mapping[str, str]) -> Iterator[RunningMesh]:
    """A mesh that calls the simulator, until the block ends."""
    with running_mesh(home / "data", {**settings(home), **more}, "--simulate") as mesh:
        yield mesh


def fill(mesh: RunningMesh, mix: Mix, filler: int) -> int:
    """Uploads the topics and so many documents besides; returns how many there are."""
    contents = [topic.document for topic in mix.topics] + list(notes(filler, seed=1))
    with mesh.client() as client, ThreadPoolExecutor(AT_ONCE) as pool:
        sent = [
            pool.submit(upload, client, f"document-{number}.md", content)
            for number, content in enumerate(contents)
        ]
        for each in sent:
            each.result()
        await_all_ready(client)
    return len(contents)


def await_all_ready(client: httpx.Client) -> float:
    """Waits until no document is queued or processed; returns the seconds it took.

    Raises:
        RuntimeError: one failed.
        TimeoutError: it took too long.
    """
    began = time.monotonic()
    while any(_has(client, state) for state in ("queued", "processing")):
        if time.monotonic() - began > READY_SECONDS:
            raise TimeoutError("documents were not ready in time")
        time.sleep(0.25)
    if failed := _has(client, "failed"):
        raise RuntimeError(f"a document failed: {failed[0]['error']}")
    return time.monotonic() - began


def _has(client: httpx.Client, state: str) -> list[dict[str, Any]]:
    reply = client.get("/v1/documents", params={"state": state, "page_size": 1})
    found: list[dict[str, Any]] = reply.raise_for_status().json()["documents"]
    return found


def neighbour(mesh: RunningMesh) -> str:
    """Makes another project and returns a key for it."""
    with mesh.client() as client:
        project = client.post("/v1/projects", json={"name": f"neighbour-{new_id('p')[-6:]}"})
        body = {
            "project_id": project.raise_for_status().json()["id"],
            "name": "load",
            "scopes": ["read", "write"],
        }
        reply = client.post("/v1/keys", json=body)
        return str(reply.raise_for_status().json()["key"])


class Providers:
    """The simulator's commands."""

    def __init__(self, mesh: RunningMesh) -> None:
        state = read(DataDirectory(mesh.data).state)
        if state is None:
            raise RuntimeError("the mesh does not say what runs")
        address = next(child.address for child in state.children if child.name == "simulator")
        self._http = httpx.Client(base_url=f"http://{address}/_simulator", trust_env=False)

    def pace(self, values: Mapping[str, Mapping[str, float]]) -> None:
        """How fast which operation answers."""
        self._http.put("/pace", content=json.dumps(values)).raise_for_status()

    def strike(self, fault: str) -> None:
        """Breaks what a step wants broken; `none` mends everything."""
        if fault == "primary_provider":
            rule = {"kind": "overloaded", "provider": "gemini", "operation": "generate"}
            self._http.post("/faults", content=json.dumps(rule)).raise_for_status()
        elif fault == "none":
            self._http.delete("/faults").raise_for_status()
        elif fault:
            raise ValueError(f"no fault is named {fault}")

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()
