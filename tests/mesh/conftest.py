"""The fixture `mesh`: `citemesh up` as a user runs it, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil
import pytest

from meshkit.supervisor import ports
from meshkit.supervisor.layout import DataDirectory
from meshkit.supervisor.processes import wait_ended
from meshkit.supervisor.state import ChildState, MeshState, read
from tests.mesh.planted import PROVIDER_KEY, Issuer
from tests.mesh.traces import Span, spans

READY_WITHIN_S = 240.0
"""The first run of a machine fetches the weights; later about ten seconds."""
STOP_WITHIN_S = 60.0


def wait_until(condition: Callable[[], bool], within: float, what: str) -> None:
    """Waits for a condition with a deadline."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class RunningMesh:
    """A mesh that is up."""

    process: subprocess.Popen[bytes]
    data: DataDirectory
    url: str
    http: httpx.Client
    """With the key of the default project."""
    issuer: Issuer | None = None
    """Whose JSON Web Tokens it believes."""

    @property
    def api_key(self) -> str:
        """Key of the project `default`, all scopes."""
        return self.data.api_key.read_text().strip()

    @property
    def state(self) -> MeshState:
        """What the supervisor says runs."""
        state = read(self.data.state)
        assert state is not None
        return state

    def child(self, name: str) -> ChildState:
        """One process: `mesh.child("retrieval").address`."""
        return next(child for child in self.state.children if child.name == name)

    def log(self, name: str) -> str:
        """What a process wrote so far."""
        return (self.data.logs / f"{name}.log").read_text(errors="replace")

    def spans(self) -> list[Span]:
        """Every span written so far."""
        return list(spans([self.data.traces]))

    def metrics(self, name: str) -> str:
        """What a process tells Prometheus now."""
        served = [line for line in self.log(name).splitlines() if "metrics are served" in line]
        port = json.loads(served[-1])["port"]
        reply = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=30)
        assert reply.status_code == 200
        return reply.text

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Sends a signal to a service (kill -9 by default); returns its process id."""
        pid = self.child(name).pid
        assert pid is not None, f"{name} does not run"
        os.kill(pid, number)
        return pid

    def kill_and_wait_until_back(self, name: str, within: float = 5.0) -> float:
        """Kills a service with -9; returns the seconds until its successor was ready."""
        pid = self.kill(name)
        began = time.monotonic()

        def back() -> bool:
            child = self.child(name)
            return child.pid not in (None, pid) and child.state == "ready"

        wait_until(back, within, f"{name} is back after kill -9")
        return time.monotonic() - began

    def family(self) -> list[psutil.Process]:
        """The supervisor and everything it started."""
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]


def start_mesh(
    directory: Path, port: int | None = None, *options: str, **settings: str
) -> RunningMesh:
    """Starts `citemesh up` and returns when it says that everything is ready."""
    port = port or ports.pick()
    output = directory / "up.out"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("CITEMESH_")
    }
    for kept in ("CITEMESH_WEIGHTS_DIR", "CITEMESH_WEIGHTS_SOURCE"):
        if kept in os.environ:
            environment[kept] = os.environ[kept]
    # Every request leaves a trace that a test can look at, soon; every process has metrics.
    environment["OTEL_TRACES_SAMPLER"] = "parentbased_always_on"
    environment["OTEL_BSP_SCHEDULE_DELAY"] = "1000"
    environment["CITEMESH_METRICS_LISTEN"] = "127.0.0.1:0"
    # On a machine that does other things besides, questions are late without any load; what a
    # test asks must be answered all the same.
    environment["CITEMESH_ADAPTIVE_LIMIT"] = "false"
    # Nor does a cross-encoder that is late make an answer poorer which is asked for whole.
    environment["CITEMESH_RETRIEVAL_RERANK_SECONDS"] = "20"
    environment["CITEMESH_RETRIEVAL_RERANK_SHARE"] = "0.8"
    environment |= settings
    # It ends with these tests, however they end.
    environment["CITEMESH_SUPERVISOR_PID"] = str(os.getpid())
    command = [sys.executable, "-m", "meshkit.supervisor.launch", "module", "meshkit.cli", "up"]
    with output.open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--data", str(directory / "data"), *options],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    data = DataDirectory.at(directory / "data")
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        if process.poll() is not None:
            tail = "\n".join(output.read_text(errors="replace").splitlines()[-40:])
            pytest.fail(f"citemesh up ended with {process.returncode}:\n{tail}")
        state = read(data.state)
        # A supervisor that was killed leaves its last state behind.
        return state is not None and state.pid == process.pid and state.phase == "ready"

    try:
        wait_until(ready, READY_WITHIN_S, f"the mesh is ready; see {output}")
        headers = {"Authorization": f"Bearer {data.api_key.read_text().strip()}"}
        http = httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False)
        return RunningMesh(process, data, url, http)
    except BaseException:
        stop_process(process)
        raise


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """Stops a supervisor; whatever happens nothing of it is left when this returns."""
    if process.poll() is not None:
        return
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    finally:
        for child in family:
            if not wait_ended(child, 10):
                child.kill()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What meshes wrote about themselves is read when everything else has been done with them."""
    items.sort(key=lambda item: item.path.name == "test_telemetry.py")


@pytest.fixture(scope="session")
def mesh(scratch: Path) -> Iterator[RunningMesh]:
    """One mesh for all tests of the session; tests use projects and documents of their own."""
    directory = scratch / "mesh"
    directory.mkdir()
    directory.chmod(0o711)
    issuer = Issuer.at(directory)
    running = start_mesh(directory, **issuer.settings, GEMINI_API_KEY=PROVIDER_KEY)
    try:
        yield replace(running, issuer=issuer)
    finally:
        running.http.close()
        stop_process(running.process)
