"""POST /v1/token: a signed context for callers of the gRPC services."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from gateway import problem
from gateway.endpoint import GuardedRoute, caller_of, requires
from gateway.json_response import JsonResponse
from gateway.mesh import mesh_of
from gateway.problem import request_id_of
from meshkit import clock

router = APIRouter(
    prefix="/v1/token",
    tags=["token"],
    route_class=GuardedRoute,
    responses=problem.RESPONSES,
)


class Token(TypedDict):
    """A signed context and where to use it."""

    token: str
    """Send it as the metadata `x-citemesh-context` of every call."""
    expires_at: float
    """Seconds since 1970."""
    expires_in: float
    """The same in seconds from now, for callers whose clock may be wrong."""
    project_id: str
    services: dict[str, str]
    """Address of each service, `host:port`, as far as the gateway knows it."""


@router.post("", summary="Get a token for the gRPC services", responses={200: {"model": Token}})
@requires("read")
async def token(request: Request) -> Response:
    """The caller's project, principals and scopes, signed, for five minutes."""
    mesh = mesh_of(request)
    context = mesh.contexts.fresh(caller_of(request), request_id_of(request))
    body: Token = {
        "token": context.token,
        "expires_at": context.expires_at,
        "expires_in": round(context.expires_at - clock.now(), 3),
        "project_id": context.project_id,
        "services": mesh.addresses,
    }
    return JsonResponse(body)
