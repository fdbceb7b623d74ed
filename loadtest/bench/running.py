"""A mesh of its own for the measurement: started, filled, asked, stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil

from meshkit.supervisor.ports import pick

READY_SECONDS = 600.0


class RawClient:
    """One kept connection of the standard library: a client's own cost is not the mesh's."""

    def __init__(self, url: str, api_key: str) -> None:
        address = urlsplit(url)
        self._connection = HTTPConnection(address.hostname or "", address.port, timeout=120)
        self._headers = {
            "Authorization": f"Bearer {api_key}",
            "Content-Type": "application/json",
        }

    def post(self, path: str, body: dict[str, Any]) -> tuple[float, Any]:
        """Milliseconds from the request's first byte to the answer's last, and the answer.

        Raises:
            RuntimeError: when the answer is not a 200.
        """
        sent = json.dumps(body).encode()
        started = time.perf_counter()
        self._connection.request("POST", path, sent, self._headers)
        response = self._connection.getresponse()
        received = response.read()
        took = (time.perf_counter() - started) * 1e3
        if response.status != 200:
            raise RuntimeError(f"{path} answered {response.status}")
        return took, json.loads(received)

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


@dataclass(frozen=True, slots=True)
class RunningMesh:
    """An embedded mesh and how to reach it."""

    url: str
    data: Path
    pid: int

    @property
    def api_key(self) -> str:
        """Key of the default project."""
        return (self.data / "api_key").read_text().strip()

    def client(self) -> httpx.Client:
        """A client with the key, one connection kept open."""
        headers = {"Authorization": f"Bearer {self.api_key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=120, trust_env=False)

    @contextmanager
    def raw_client(self) -> Iterator[RawClient]:
        """The leanest client there is, for calls whose milliseconds count."""
        client = RawClient(self.url, self.api_key)
        try:
            yield client
        finally:
            client.close()

    def processes(self) -> list[psutil.Process]:
        """The supervisor and everything below it."""
        root = psutil.Process(self.pid)
        return [root, *root.children(recursive=True)]

    def addresses(self) -> dict[str, str]:
        """GRPC address per service, as POST /v1/token tells them."""
        with self.client() as client:
            found: dict[str, str] = client.post("/v1/token").raise_for_status().json()["services"]
        return found


@contextmanager
def running_mesh(data: Path, environment: dict[str, str], *options: str) -> Iterator[RunningMesh]:
    """`citemesh up` on a free port until the block ends.

    Args:
        data: Data directory.
        environment: Variables on top of this process's own.
        options: More of the command line, such as `--simulate`.
    """
    port = pick()
    # Launched as the supervisor launches its children: whatever ends this process ends the mesh.
    command = [sys.executable, "-m", "meshkit.supervisor.launch", "module", "meshkit.cli", "up"]
    command += ["--port", str(port), "--data", str(data), *options]
    tied = {"CITEMESH_SUPERVISOR_PID": str(os.getpid())}
    log = (data.parent / "mesh.log").open("wb")
    process = subprocess.Popen(
        command, env={**os.environ, **environment, **tied}, stdout=log, stderr=subprocess.STDOUT
    )
    mesh = RunningMesh(f"http://127.0.0.1:{port}", data, process.pid)
    try:
        _wait_ready(mesh, process)
        yield mesh
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def _wait_ready(mesh: RunningMesh, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(
                f"the mesh ended with {process.returncode}; see mesh.log beside its data"
            )
        try:
            if httpx.get(f"{mesh.url}/readyz", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError("the mesh did not become ready")


def upload(client: httpx.Client, name: str, content: bytes) -> str:
    """Uploads a file and returns the document's id."""
    response = client.post("/v1/documents", files={"file": (name, content)})
    return str(response.raise_for_status().json()["id"])


def read_chunks(client: httpx.Client, document: str) -> list[str]:
    """Texts of a document's chunks."""
    texts: list[str] = []
    token = ""
    while True:
        params: dict[str, str | int] = {"page_size": 200, "page_token": token}
        page = client.get(f"/v1/documents/{document}/chunks", params=params).raise_for_status()
        found = page.json()
        texts += [chunk["text"] for chunk in found["chunks"]]
        token = found.get("next_page_token") or ""
        if not token:
            return texts


def await_ready(client: httpx.Client, document: str) -> dict[str, Any]:
    """Follows the document's events to the end and returns its last state.

    Raises:
        RuntimeError: when it failed.
    """
    last: dict[str, Any] = {}
    with client.stream("GET", f"/v1/documents/{document}/events") as events:
        for line in events.iter_lines():
            if line.startswith("data:"):
                last = json.loads(line[5:])
    if last.get("state") != "ready":
        raise RuntimeError(f"document {document} is {last.get('state')}: {last.get('error')}")
    return last
