"""/v1/providers: which models are given a rest after failures, and ending that by hand."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from gateway import problem
from gateway.bodies import ResetBody
from gateway.endpoint import GuardedRoute, requires
from gateway.json_response import JsonResponse
from gateway.mesh import mesh_of
from gateway.operations import Breaker, Replica
from meshkit import context

router = APIRouter(
    prefix="/v1/providers",
    tags=["providers"],
    route_class=GuardedRoute,
    responses=problem.RESPONSES,
)


class BreakerLine(TypedDict):
    """The circuit breaker of a model, or of an account where `model` is empty, in one process."""

    component: str
    address: str
    """Of the process: each replica has breakers of its own."""
    provider: str
    model: str
    operation: str
    state: str
    """`closed`, `half_open`, `open`."""
    fault: str
    """`transient`, `account`, `revoked`; empty while closed."""
    step: int
    """Which rung of the ladder of rests, from 1; 0 while closed."""
    seconds_left: float
    """Until the next call is let through."""


class BreakerList(TypedDict):
    """Breakers of every process that calls providers."""

    breakers: list[BreakerLine]
    silent: list[str]
    """Processes that did not answer, `component at host:port`."""


class Reset(TypedDict):
    """What was closed."""

    closed: int
    """Breakers that were not closed before, in all processes together."""
    silent: list[str]
    """Processes that could not be told."""


def breaker_json(found: Breaker) -> BreakerLine:
    """A breaker as REST shows it."""
    return {
        "component": found.replica.component,
        "address": found.replica.address,
        "provider": found.provider,
        "model": found.model,
        "operation": found.operation,
        "state": found.state,
        "fault": found.fault,
        "step": found.step,
        "seconds_left": found.seconds_left,
    }


def _named(replicas: tuple[Replica, ...]) -> list[str]:
    return [f"{replica.component} at {replica.address}" for replica in replicas]


@router.get("", summary="State of the providers", responses={200: {"model": BreakerList}})
@requires("admin")
async def breakers(request: Request) -> Response:
    """The circuit breakers of every process that calls providers."""
    report = await mesh_of(request).operations.breakers(context.current())
    body: BreakerList = {
        "breakers": [breaker_json(found) for found in report.found],
        "silent": _named(report.silent),
    }
    return JsonResponse(body)


@router.post(":reset", summary="Close breakers by hand", responses={200: {"model": Reset}})
@requires("admin")
async def reset(request: Request, body: ResetBody) -> Response:
    """Closes the breakers of a provider, or all, in every process."""
    operations = mesh_of(request).operations
    closed, silent = await operations.reset(body.provider, context.current())
    told: Reset = {"closed": closed, "silent": _named(silent)}
    return JsonResponse(told)
