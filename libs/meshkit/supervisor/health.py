"""Is a process ready? Asked often while it starts, told by the process afterwards.

A ready gRPC service keeps a health `Watch` stream open to us, which costs nothing while nothing
changes: an idle mesh must stay idle. The stream is closed as soon as the service says NOT_SERVING,
because a server that drains waits for its open streams.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

POLL_S = 0.1
HTTP_POLL_S = 0.3
"""Less often: every question is a line in the access log."""
CALL_TIMEOUT_S = 2.0
OPTIONS = [
    # A proxy variable would otherwise send loopback traffic to the proxy.
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.use_local_subchannel_pool", 1),
]
SERVING = health_pb2.HealthCheckResponse.SERVING

Report = Callable[[bool], None]
Watch = Callable[[Report], Awaitable[None]]
"""Reports readiness whenever it changes, until it is cancelled."""


def grpc_service(address: str, service: str) -> Watch:
    """Watches `grpc.health.v1` of `service` at `address`."""

    async def watch(report: Report) -> None:
        async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service=service)
            while True:
                await _until_serving(stub, request)
                report(True)
                await _until_not_serving(stub, request)
                if not await _serves(stub, request):
                    report(False)

    return watch


async def _serves(stub: Any, request: health_pb2.HealthCheckRequest) -> bool:
    try:
        answer = await stub.Check(request, timeout=CALL_TIMEOUT_S)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == SERVING)


async def _until_serving(stub: Any, request: health_pb2.HealthCheckRequest) -> None:
    while True:
        if await _serves(stub, request):
            return
        await asyncio.sleep(POLL_S)


async def _until_not_serving(stub: Any, request: health_pb2.HealthCheckRequest) -> None:
    """Returns when the service says so, or the stream ends (connections are renewed by age)."""
    call = stub.Watch(request)
    try:
        async for answer in call:
            if answer.status != SERVING:
                return
    except grpc.aio.AioRpcError:
        return
    finally:
        call.cancel()


def http_service(host: str, port: int, path: str = "/readyz") -> Watch:
    """Watches an HTTP service: asked until it is ready, then trusted until its process ends."""

    async def watch(report: Report) -> None:
        while True:
            if await http_status(host, port, path) == 200:
                break
            await asyncio.sleep(HTTP_POLL_S)
        report(True)
        await asyncio.Event().wait()

    return watch


async def http_status(host: str, port: int, path: str) -> int | None:
    """Status of one GET; None when there was no answer in time."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
            writer.write(request.encode())
            status_line = await reader.readline()
            await reader.read()
        return int(status_line.split()[1])
    except (OSError, TimeoutError, ValueError, IndexError):
        return None
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def condition(is_ready: Callable[[], bool]) -> Watch:
    """Watches something that can be looked at without waiting (a pid file)."""

    async def watch(report: Report) -> None:
        while True:
            if is_ready():
                break
            await asyncio.sleep(0.02)
        report(True)
        await asyncio.Event().wait()

    return watch
