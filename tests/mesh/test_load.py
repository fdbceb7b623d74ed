"""The load generators against a real mesh: what they note is what happened."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.load.drivers import MAIN_KEY, Drivers
from loadtest.load.mix import load_mix
from loadtest.load.plan import Plan, Stretch, Track
from meshkit.ids import new_id
from tests.mesh.conftest import RunningMesh, wait_until

pytestmark = pytest.mark.mesh

TOPICS = 3
"""Documents that are uploaded; only questions about them have a right one."""
SECONDS = 2.0
SEED = 25


@pytest.fixture(scope="module")
def key(mesh: RunningMesh) -> str:
    """Key of a project that holds the first topics' documents."""
    project = mesh.http.post("/v1/projects", json={"name": new_id("load")}).json()["id"]
    body = {"name": "load", "project_id": project, "scopes": ["read", "write"]}
    key: str = mesh.http.post("/v1/keys", json=body).json()["key"]
    headers = {"Authorization": f"Bearer {key}"}
    for topic in load_mix().topics[:TOPICS]:
        files = {"file": (f"{topic.title}.md", topic.document)}
        mesh.http.post("/v1/documents", files=files, headers=headers).raise_for_status()

    def ready() -> bool:
        page = mesh.http.get("/v1/documents", headers=headers).json()["documents"]
        return [document["state"] for document in page] == ["ready"] * TOPICS

    wait_until(ready, 60.0, "the topics are ready")
    return key


@pytest.fixture
def drivers(tmp_path: Path, key: str) -> Iterator[Drivers]:
    running = Drivers(tmp_path, {MAIN_KEY: key})
    yield running
    running.close()


def plan(mesh: RunningMesh, amount: float, seed: int, **kinds: float) -> Plan:
    steps = (Stretch("only", SECONDS, amount, amount),)
    track = Track("main", MAIN_KEY, kinds, 0.5, seed, steps)
    return Plan(mesh.url, (track,), think_seconds=0.2, timeout_seconds=100.0)


def test_open_users_ask_over_rest_sse_and_grpc(mesh: RunningMesh, drivers: Drivers):
    begun: list[str] = []
    before = time.time()
    # With this seed four requests are due, one at least of each kind.
    few = plan(mesh, 1.5, SEED, ask=0.4, ask_whole=0.2, grpc=0.4)
    found, stretches = drivers.open(few, begun.append)
    assert begun == ["only"]
    assert [stretch.name for stretch in stretches] == ["only"]
    assert len(found) == 4
    assert {sample.reason for sample in found} == {""}
    assert {sample.kind for sample in found} == {"ask", "ask_whole", "grpc"}
    assert any(sample.right for sample in found)
    for sample in found:
        assert before < sample.due <= sample.sent < sample.end
        if sample.kind != "ask_whole":
            assert sample.sent < sample.first <= sample.end


def test_closed_users_of_locust_wait_for_their_answers(mesh: RunningMesh, drivers: Drivers):
    found = drivers.closed(plan(mesh, 2.0, SEED, ask=1.0))
    assert len(found) >= 2
    assert {sample.reason for sample in found} == {""}
    assert all(sample.sent < sample.first <= sample.end for sample in found)
    under_way = [sum(other.sent <= each.sent < other.end for other in found) for each in found]
    assert max(under_way) <= 2
