"""`citemesh up` as an operator sees it: one holder, no leftovers, nothing lost."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from meshkit.components import COMPONENTS
from meshkit.supervisor.processes import wait_ended
from tests.mesh.conftest import RunningMesh, start_mesh, stop_process
from tests.mesh.documents import ingest

pytestmark = pytest.mark.mesh

BACK_WITHIN_S = 5.0


def citemesh(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("CITEMESH_")
    }
    return subprocess.run(
        [sys.executable, "-m", "meshkit.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_a_second_up_says_who_holds_the_data_and_touches_nothing(mesh: RunningMesh) -> None:
    before = mesh.state
    done = citemesh("up", "--data", str(mesh.data.root), "--port", "1")
    assert done.returncode == 1
    assert "[DATA_DIRECTORY_HELD]" in done.stderr
    assert str(mesh.process.pid) in done.stderr
    assert mesh.url in done.stderr
    assert before.since in done.stderr
    assert mesh.state == before


def test_a_port_in_use_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = citemesh("up", "--data", str(tmp_path / "data"), "--port", str(port))
    assert done.returncode == 1
    assert f"Port {port}" in done.stderr
    assert "[PORT_TAKEN]" in done.stderr
    assert not (tmp_path / "data" / "postgres").exists()


def test_every_process_is_ready_and_listens_on_loopback_only(mesh: RunningMesh) -> None:
    states = {child.name: child for child in mesh.state.children}
    assert set(states) == {"postgres", *(component.name for component in COMPONENTS)}
    assert {child.state for child in states.values()} == {"ready"}
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in mesh.family()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_the_bulk_lane_yields_to_questions(mesh: RunningMesh) -> None:
    def nice(name: str) -> list[int]:
        threads = psutil.Process(mesh.child(name).pid).threads()
        return [os.getpriority(os.PRIO_PROCESS, thread.id) for thread in threads]

    # 19 is the lowest there is.
    assert min(nice("embedding_bulk")) >= min(19, max(nice("embedding")) + 10)


def test_no_secret_is_on_a_command_line_or_readable_by_others(mesh: RunningMesh) -> None:
    credentials = mesh.data.postgres / "credentials.json"
    secrets = [mesh.api_key, *json.loads(credentials.read_text()).values()]
    for process in mesh.family():
        line = " ".join(process.cmdline())
        assert not [secret for secret in secrets if secret in line]
    private = [credentials, mesh.data.api_key, *mesh.data.identity.glob("*.key")]
    assert [path for path in private if path.stat().st_mode & 0o077] == []


def test_a_document_acknowledged_before_postgres_is_killed_with_9_is_still_there(
    mesh: RunningMesh, tmp_path: Path
) -> None:
    (tmp_path / "kept.txt").write_text("The lighthouse keeper of Varmholm is called Ottilie.\n")
    document = ingest(mesh.http, tmp_path / "kept.txt")
    mesh.kill_and_wait_until_back("postgres", BACK_WITHIN_S)
    found = search_when_back(mesh, "Who is the lighthouse keeper of Varmholm?")
    assert document["id"] in found


def search_when_back(mesh: RunningMesh, query: str) -> list[str]:
    """Documents found, best first; a 503 while pools reconnect is an honest answer, not the last.

    Within five seconds the mesh must answer again.
    """
    from tests.mesh.conftest import wait_until

    found: list[str] = []

    def answered() -> bool:
        response = mesh.http.post("/v1/search", json={"query": query})
        if response.status_code == 503:
            return False
        response.raise_for_status()
        found.extend(hit["document_id"] for hit in response.json()["hits"])
        return True

    wait_until(answered, BACK_WITHIN_S, "searches are answered again")
    return found


@pytest.fixture
def own_mesh(scratch: Path, request: pytest.FixtureRequest) -> Iterator[RunningMesh]:
    """A mesh of this test alone, because it is ended."""
    name = re.sub(r"\W", "", request.node.name)[:40]
    directory = scratch / name
    directory.mkdir()
    directory.chmod(0o711)
    running = start_mesh(directory)
    try:
        yield running
    finally:
        running.http.close()
        stop_process(running.process)


@pytest.mark.slow
def test_kill_9_of_the_supervisor_leaves_no_process_and_loses_no_document(
    own_mesh: RunningMesh, tmp_path: Path
) -> None:
    (tmp_path / "kept.txt").write_text(
        "The ferry to Grimsholm leaves at twelve minutes past six.\n"
    )
    document = ingest(own_mesh.http, tmp_path / "kept.txt")
    family = own_mesh.family()
    own_mesh.process.kill()
    own_mesh.process.wait()
    assert [process for process in family if not wait_ended(process, 20)] == []

    again = start_mesh(own_mesh.data.root.parent)
    try:
        assert again.api_key == own_mesh.api_key
        assert search_when_back(again, "When does the ferry leave?")[0] == document["id"]
        family = again.family()
        again.process.send_signal(signal.SIGINT)
        assert again.process.wait(60) == 0
        assert [process for process in family if not wait_ended(process, 5)] == []
    finally:
        again.http.close()
        stop_process(again.process)


@pytest.mark.slow
def test_a_detached_mesh_is_ready_when_the_command_returns_and_down_ends_all_of_it(
    scratch: Path,
) -> None:
    from meshkit.supervisor import ports

    data, port = scratch / "detached" / "data", ports.pick()
    data.parent.mkdir()
    data.parent.chmod(0o711)
    at = ("--data", str(data))
    try:
        up = citemesh("up", "--detach", "--port", str(port), *at, timeout=240)
        assert up.returncode == 0, up.stderr
        status = citemesh("status", "--json", *at)
        assert status.returncode == 0, status.stderr
        services = json.loads(status.stdout)["services"]
        pids = [service["pid"] for service in services]
        assert {service["health"] for service in services} == {"ready"}
    finally:
        down = citemesh("down", *at, timeout=100)
    assert down.returncode == 0, down.stderr
    assert [pid for pid in pids if psutil.pid_exists(pid) and not gone(pid)] == []
    assert citemesh("status", *at).returncode == 1


def gone(pid: int) -> bool:
    try:
        return wait_ended(psutil.Process(pid), 5)
    except psutil.NoSuchProcess:
        return True
