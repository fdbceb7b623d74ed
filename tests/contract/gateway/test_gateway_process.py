"""`python -m gateway` as a process: what it says before it is ready, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.__main__ import listen


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.fixture
def environment(keyring: Path, postgres: Any) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CITEMESH_", "OTEL_"))}
    nobody = f"127.0.0.1:{free_port()}"
    return {
        **clean,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "CITEMESH_GATEWAY_LISTEN": f"127.0.0.1:{free_port()}",
        "CITEMESH_GATEWAY_DATABASE_URL": postgres.dsn("gateway"),
        "CITEMESH_GATEWAY_SIGNING_KEY": str(keyring / "gateway.key"),
        "CITEMESH_GATEWAY_DRAIN_SECONDS": "2",
        "CITEMESH_GATEWAY_NOTICE_SECONDS": "0.5",
        "CITEMESH_INGESTION_ADDRESS": nobody,
        "CITEMESH_RETRIEVAL_ADDRESS": nobody,
        "CITEMESH_GENERATION_ADDRESS": nobody,
    }


@pytest.fixture
def started(environment: dict[str, str]) -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def start(environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gateway"]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def when(condition: Any, seconds: float = 30) -> Any:
    """What the condition returns once it is true."""
    until = time.monotonic() + seconds
    while True:
        try:
            if found := condition():
                return found
        except httpx.TransportError:
            pass
        assert time.monotonic() < until
        time.sleep(0.05)


def test_it_lives_says_what_is_missing_and_ends_cleanly(
    environment: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    process = start(environment)
    started.append(process)
    url = f"http://{environment['CITEMESH_GATEWAY_LISTEN']}"
    with httpx.Client(base_url=url, trust_env=False) as client:
        when(lambda: client.get("/healthz").status_code == 200)
        ready = when(
            lambda: (r := client.get("/readyz")).json()["parts"].get("database") and r, seconds=30
        )
        assert ready.status_code == 503
        assert ready.json()["status"] == "not_ready"
        assert ready.json()["missing"] == ["generation", "ingestion", "retrieval"]
        alone = client.get("/readyz/gateway")
        assert (alone.status_code, alone.json()) == (200, {"status": "ready"})
        assert client.get("/v1/usage").json()["reason"] == "CREDENTIALS_MISSING"
        metrics = client.get("/metrics")
        assert "http_server_request_duration" in metrics.text
        assert 'http_route="/healthz"' in metrics.text
        assert "connection" not in metrics.headers
        process.send_signal(signal.SIGTERM)
        draining = when(lambda: (r := client.get("/readyz")).json()["status"] == "draining" and r)
        assert draining.status_code == 503
        # Requests are still answered, and each answer sends its connection's owner elsewhere.
        late = client.get("/v1/usage")
        assert late.json()["reason"] == "CREDENTIALS_MISSING"
        assert late.headers["Connection"] == "close"
    output, _ = process.communicate(timeout=15)
    assert process.returncode == 0, output
    assert "stopped" in output
    assert "Traceback" not in output


def test_a_request_leaves_nothing_to_the_next_one_of_its_connection(
    environment: dict[str, str], started: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    key = tmp_path / "api.key"
    command = [sys.executable, "-m", "gateway.bootstrap", "--project", tmp_path.name]
    subprocess.run([*command, "--key-file", str(key)], env=environment, check=True)
    seconds = 2.0  # longer than the retries of a call to a service that is not there
    environment["CITEMESH_GATEWAY_SEARCH_SECONDS"] = str(seconds)
    started.append(start(environment))
    url = f"http://{environment['CITEMESH_GATEWAY_LISTEN']}"
    headers = {"Authorization": f"Bearer {key.read_text().strip()}"}
    one = httpx.Limits(max_connections=1)
    with httpx.Client(
        base_url=url, headers=headers, trust_env=False, limits=one, timeout=30
    ) as client:
        when(lambda: client.get("/readyz").json()["parts"].get("database"))
        # More than the server reads ahead, so that it stops and resumes reading.
        assert client.post("/v1/search", json={"query": "why " * 25_000}).status_code == 400
        until = time.monotonic() + 2 * seconds
        while time.monotonic() < until:
            reply = client.post("/v1/search", json={"query": "why"})
            assert reply.json()["reason"] == "SERVICE_UNAVAILABLE", "its deadline was inherited"
            time.sleep(0.1)  # a pace; the log of the process is a pipe that nobody reads


def test_without_a_database_it_lives_and_names_the_gap(
    environment: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    environment["CITEMESH_GATEWAY_DATABASE_URL"] = (
        f"postgresql://citemesh_gateway:secret-word@127.0.0.1:{free_port()}/none"
    )
    process = start(environment)
    started.append(process)
    url = f"http://{environment['CITEMESH_GATEWAY_LISTEN']}"
    with httpx.Client(base_url=url, trust_env=False) as client:
        when(lambda: client.get("/healthz").status_code == 200)
        assert "gateway" in client.get("/readyz").json()["missing"]
        alone = client.get("/readyz/gateway")
        assert (alone.status_code, alone.json()) == (503, {"status": "starting"})
        assert client.get("/v1/usage").json()["reason"] == "GATEWAY_STARTING"
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=15)
    assert process.returncode == 0, output
    assert "secret-word" not in output


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"CITEMESH_GATEWAY_LISTEN": "nowhere"}, "CITEMESH_GATEWAY_LISTEN"),
        ({"CITEMESH_GATEWAY_KEY_LIMIT": "often"}, "CITEMESH_GATEWAY_KEY_LIMIT"),
        ({"CITEMESH_GATEWAY_COLOUR": "red"}, "CITEMESH_GATEWAY_COLOUR"),
        ({"CITEMESH_GATEWAY_SIGNING_KEY": "/none"}, "CITEMESH_GATEWAY_SIGNING_KEY"),
        ({"CITEMESH_GATEWAY_JWT_JWKS": "/none"}, "CITEMESH_GATEWAY_JWT_ISSUER"),
        ({"CITEMESH_RETRIEVAL_ADDRESS": ""}, "CITEMESH_RETRIEVAL_ADDRESS"),
    ],
)
def test_a_wrong_setting_ends_the_start_by_its_name(
    environment: dict[str, str],
    started: list[subprocess.Popen[str]],
    changed: dict[str, str],
    named: str,
) -> None:
    process = start({**environment, **changed})
    started.append(process)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2, output
    assert named in output
    assert "Traceback" not in output


def test_a_port_that_is_taken_is_refused(
    environment: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment["CITEMESH_GATEWAY_LISTEN"] = f"127.0.0.1:{taken.getsockname()[1]}"
        process = start(environment)
        started.append(process)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 2, output
    assert "Address already in use" in output


async def test_answers_do_not_wait_for_the_clients_acknowledgement() -> None:
    listener, accepted = listen("127.0.0.1:0"), asyncio.Event()
    delays: list[int] = []

    def look(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        delays.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()
        accepted.set()

    async with await asyncio.start_server(look, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        await accepted.wait()
        writer.close()
    assert delays == [1]


def test_the_bootstrap_command_writes_a_key(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "api.key"
    command = [sys.executable, "-m", "gateway.bootstrap", "--project", tmp_path.name]
    for sentence in ("was written to", "is still in"):
        done = subprocess.run(
            [*command, "--key-file", str(file)], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert sentence in done.stdout
        assert file.read_text().strip() not in done.stdout + done.stderr
