"""/healthz, /readyz, /metrics: for probes and scrapers; they need no key and have no limit."""

from __future__ import annotations

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response
from typing_extensions import TypedDict

from gateway.json_response import JsonResponse
from gateway.mesh import Slot
from gateway.routes.providers import BreakerLine, breaker_json

router = APIRouter(tags=["health"])


class Health(TypedDict):
    """How the process is."""

    status: str


class Ready(TypedDict):
    """What is there; without anything in `missing` requests fail."""

    status: str
    missing: list[str]
    degraded: list[str]
    parts: dict[str, bool]
    breakers: list[BreakerLine]
    """Providers' models that are given a rest after failures; others stand in for them."""


@router.get("/healthz", summary="Liveness", responses={200: {"model": Health}})
async def healthz() -> Response:
    """Whether the process answers, whatever the others do."""
    health: Health = {"status": "alive"}
    return JsonResponse(health)


@router.get(
    "/readyz", summary="Readiness", responses={200: {"model": Ready}, 503: {"model": Ready}}
)
async def readyz(request: Request) -> Response:
    """Whether requests can be served, and if not, what is missing."""
    slot: Slot = request.app.state.slot
    report = await slot.readiness.report()
    missing = report.missing
    status = "not_ready" if missing else "ready"
    if slot.readiness.draining:
        status = "draining"
    ready: Ready = {
        "status": status,
        "missing": missing,
        "degraded": report.degraded,
        "parts": dict(report.parts),
        "breakers": [breaker_json(found) for found in report.breakers],
    }
    return JsonResponse(ready, status_code=200 if status == "ready" else 503)


@router.get(
    "/readyz/gateway",
    summary="Readiness of this gateway alone",
    responses={200: {"model": Health}, 503: {"model": Health}},
)
async def ready_alone(request: Request) -> Response:
    """Whether this gateway takes requests, whatever the others do.

    For whoever chooses among gateways: when a service is away all of them lack it, and each
    still answers what does not need it and says why it cannot answer the rest.
    """
    slot: Slot = request.app.state.slot
    status = "starting" if slot.mesh is None else "ready"
    if slot.readiness.draining:
        status = "draining"
    health: Health = {"status": status}
    return JsonResponse(health, status_code=200 if status == "ready" else 503)


@router.get("/metrics", summary="Prometheus metrics")
async def metrics() -> Response:
    """The process's metrics in Prometheus' text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
