"""Probes of `make pods` judge as a kubelet's do, over real sockets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from tools.pods.callers import Seen
from tools.pods.derive import Probe
from tools.pods.probes import passes
from tools.pods.replica import end_of
from tools.pods.scenario import Report
from tools.pods.summary import holds, summary

READY = "citemesh.retrieval.v1.RetrievalService"
WAITING = (sys.executable, "-c", "input()")
STATUS = health_pb2.HealthCheckResponse


@asynccontextmanager
async def service(status: int) -> AsyncIterator[int]:
    """A server that is alive and says `status` of its service; yields its port."""
    server = grpc.aio.server()
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    await servicer.set("", STATUS.SERVING)
    await servicer.set(READY, status)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@asynccontextmanager
async def answering(line: bytes) -> AsyncIterator[int]:
    """A server that answers every connection with one line, or not at all when it is empty."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if line:
            writer.write(line + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            await writer.drain()
        else:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize(("status", "ready"), [(STATUS.SERVING, True), (STATUS.NOT_SERVING, False)])
async def test_a_service_is_ready_when_it_says_so_and_alive_in_any_case(
    status: int, ready: bool
) -> None:
    async with service(status) as port:
        assert await passes("127.0.0.1", Probe(port, service=READY)) is ready
        assert await passes("127.0.0.1", Probe(port))
        assert not await passes("127.0.0.1", Probe(port, service="unheard.of"))


@pytest.mark.parametrize(
    ("line", "good"),
    [(b"HTTP/1.1 200 OK", True), (b"HTTP/1.1 302 Found", True), (b"HTTP/1.1 503 No", False)],
)
async def test_http_is_good_below_400(line: bytes, good: bool) -> None:
    async with answering(line) as port:
        assert await passes("127.0.0.1", Probe(port, path="/readyz")) is good


@pytest.mark.parametrize("path", ["", "/readyz"])
async def test_no_answer_in_time_is_none(path: str) -> None:
    async with answering(b"") as port:
        began = time.monotonic()
        assert not await passes("127.0.0.1", Probe(port, path=path, timeout_seconds=0.3))
        assert time.monotonic() - began < 5


async def test_the_end_of_a_process_is_noticed() -> None:
    with subprocess.Popen(WAITING, stdin=subprocess.PIPE) as process:  # noqa: ASYNC220
        noticed = asyncio.create_task(end_of(process.pid))
        await asyncio.sleep(0)
        assert not noticed.done()
        process.kill()
        await asyncio.wait_for(noticed, 10)
    await asyncio.wait_for(end_of(process.pid), 10)


def test_a_request_that_fails_at_rest_or_in_a_roll_is_a_broken_promise() -> None:
    report = Report()
    assert holds(summary(report, images=8, left_behind=0, seconds=1.0))
    report.during_kill = Seen(asked=5, right=4, failed=["it was under way"])
    found = summary(report, images=8, left_behind=0, seconds=1.0)
    assert holds(found)
    assert (found["asked"], found["failed_requests"]) == (5, 1)
    report.during_roll = Seen(asked=5, right=4, failed=["x"])
    assert not holds(summary(report, images=8, left_behind=0, seconds=1.0))
    assert not holds(summary(Report(), images=8, left_behind=1, seconds=1.0))
