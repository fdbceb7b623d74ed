"""What stands before every route under /v1: limits, authentication, scope, context, a place.

It comes before the body is read, so that a stranger cannot make us parse. A
route without `requires` does not start: none can be left open by forgetting.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from gateway.admission import REQUEST
from gateway.auth import Caller
from gateway.mesh import Mesh, mesh_of
from gateway.problem import request_id_of
from meshkit import deadline
from meshkit.admission import Place
from meshkit.context import RequestContext, acting_as
from meshkit.errors import PermissionDenied
from meshkit.resilience.admission import Kind

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a request has to have and to wait for before its route is entered."""

    scope: str
    seconds: str
    """The setting that says its time."""
    kind: Kind | None
    """What it counts as where places are given out; None takes none."""


def requires(
    scope: str, *, seconds: str = "request_seconds", kind: Kind | None = REQUEST
) -> Callable[[F], F]:
    """Marks a route with what it requires; see `Requirement`."""

    def mark(endpoint: F) -> F:
        endpoint.required = Requirement(scope, seconds, kind)  # type: ignore[attr-defined]
        return endpoint

    return mark


def caller_of(request: Request) -> Caller:
    """Who was authenticated for this request."""
    caller: Caller = request.scope["state"]["caller"]
    return caller


def address_of(request: Request) -> str:
    """Where the request came from."""
    return request.client.host if request.client else "unknown"


def requirement_of(endpoint: Callable[..., Any]) -> Requirement:
    """What an endpoint requires.

    Raises:
        TypeError: when it does not say.
    """
    required: Requirement | None = getattr(endpoint, "required", None)
    if required is None:
        raise TypeError(f"{endpoint.__name__} does not say which scope it requires")
    return required


def place_of(request: Request) -> Place | None:
    """The place the request was given; the edge takes it back when the response has ended."""
    place: Place | None = request.scope["state"].get("place")
    return place


async def admit(request: Request, mesh: Mesh, required: Requirement) -> RequestContext:
    """The signed context of a caller who may do this; a request is admitted once.

    Raises:
        LimitExceeded, Unauthenticated: the address, the credential or its key.
        PermissionDenied: SCOPE_MISSING.
        Busy: SERVICE_BUSY.
    """
    state = request.scope["state"]
    admitted: RequestContext | None = state.get("admitted")
    if admitted is not None:
        return admitted
    address = address_of(request)
    await mesh.limits.by_address(address)
    caller = await mesh.authenticator.authenticate(request.headers, address)
    await mesh.limits.by_key(caller.subject)
    if required.scope not in caller.scopes:
        raise PermissionDenied("SCOPE_MISSING", f"This needs the scope '{required.scope}'.")
    if required.kind is not None:
        state["place"] = await mesh.admission.enter(required.kind)
    state["caller"] = caller
    context = state["admitted"] = mesh.contexts.of(caller, request_id_of(request))
    return context


class GuardedRoute(APIRoute):
    """A route that only a known caller with the right scope gets through to."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The guarded handler."""
        handle = super().get_route_handler()
        required = requirement_of(self.endpoint)

        async def guarded(request: Request) -> Response:
            mesh = mesh_of(request)
            context = await admit(request, mesh, required)
            with acting_as(context), deadline.within(getattr(mesh.settings, required.seconds)):
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
