"""Asks a container how it is, as a kubelet does: from outside, on a new connection each time."""

from __future__ import annotations

from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tools.pods.derive import Probe

OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]


async def passes(address: str, probe: Probe) -> bool:
    """Whether the container at an address answers a probe well and in time."""
    if probe.path:
        return await _http(f"http://{address}:{probe.port}{probe.path}", probe.timeout_seconds)
    return await _grpc(f"{address}:{probe.port}", probe.service, probe.timeout_seconds)


async def _http(url: str, patience: float) -> bool:
    try:
        async with httpx.AsyncClient(timeout=patience, trust_env=False) as client:
            return 200 <= (await client.get(url)).status_code < 400
    except httpx.HTTPError:
        return False


async def _grpc(address: str, service: str, patience: float) -> bool:
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(
                health_pb2.HealthCheckRequest(service=service), timeout=patience
            )
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
