"""What stands before every route under /v1: limits, authentication, scope, context.

It comes before the body is read, so that a stranger cannot make us parse. A
route without `requires` does not start: none can be left open by forgetting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from gateway.auth import Caller
from gateway.mesh import Mesh, mesh_of
from gateway.problem import request_id_of
from meshkit import deadline
from meshkit.context import RequestContext, acting_as
from meshkit.errors import PermissionDenied
from meshkit.identity import REQUEST_SECONDS

F = TypeVar("F", bound=Callable[..., Any])


def requires(scope: str, *, seconds: str = "request_seconds") -> Callable[[F], F]:
    """Marks a route with the scope it needs and the setting that says its time."""

    def mark(endpoint: F) -> F:
        endpoint.required = (scope, seconds)  # type: ignore[attr-defined]
        return endpoint

    return mark


def sign(mesh: Mesh, caller: Caller, request_id: str, *, project_id: str = "") -> RequestContext:
    """The signed context of a caller, for at most as long as its credential lives."""
    seconds = REQUEST_SECONDS
    if caller.expires_at is not None:
        seconds = max(1.0, min(seconds, caller.expires_at - time.time()))
    return mesh.signer.sign(
        project_id=project_id or caller.project_id,
        principals=caller.principals,
        scopes=caller.scopes,
        subject=caller.subject,
        request_id=request_id,
        seconds=seconds,
    )


def caller_of(request: Request) -> Caller:
    """Who was authenticated for this request."""
    caller: Caller = request.scope["state"]["caller"]
    return caller


def address_of(request: Request) -> str:
    """Where the request came from."""
    return request.client.host if request.client else "unknown"


class GuardedRoute(APIRoute):
    """A route that only a known caller with the right scope gets through to."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The guarded handler."""
        handle = super().get_route_handler()
        required = getattr(self.endpoint, "required", None)
        if required is None:
            raise TypeError(f"{self.path} does not say which scope it requires")
        scope, seconds = required

        async def guarded(request: Request) -> Response:
            mesh = mesh_of(request)
            address = address_of(request)
            await mesh.limits.by_address(address)
            caller = await mesh.authenticator.authenticate(request.headers, address)
            await mesh.limits.by_key(caller.subject)
            if scope not in caller.scopes:
                raise PermissionDenied("SCOPE_MISSING", f"This needs the scope '{scope}'.")
            request.scope["state"]["caller"] = caller
            context = sign(mesh, caller, request_id_of(request))
            with acting_as(context), deadline.within(getattr(mesh.settings, seconds)):
                return await handle(request)

        return guarded


class AnonymousRoute(APIRoute):
    """A route that needs no key; only the address is counted."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The counted handler."""
        handle = super().get_route_handler()

        async def counted(request: Request) -> Response:
            await mesh_of(request).limits.anonymous(address_of(request))
            return await handle(request)

        return counted
