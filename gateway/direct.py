"""The hot route without the framework around it.

FastAPI matches a route twice, opens three exit stacks and solves dependencies that
are none: half of the gateway's share of a search. What is here does the same steps
in the same order for a well-formed request. Anything else is handed on to FastAPI,
which also describes the route: there is one endpoint and one place that says what is
wrong with a body.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import problem
from gateway.bodies import Body
from gateway.endpoint import admit, requirement_of
from gateway.mesh import mesh_of
from meshkit import deadline
from meshkit.context import acting_as
from meshkit.errors import MeshError


@dataclass(frozen=True, slots=True)
class DirectRoute:
    """A POST route whose endpoint takes the request and a body."""

    path: str
    endpoint: Callable[[Request, Any], Awaitable[Response]]
    body: type[Body]


class Direct:
    """ASGI middleware around FastAPI that serves one route by itself; see the module."""

    def __init__(self, app: ASGIApp, route: DirectRoute) -> None:
        self._app = app
        self._route = route
        self._required = requirement_of(route.endpoint)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        route = self._route
        if scope["type"] != "http" or scope["path"] != route.path or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        request = Request(scope, receive)
        response: Response
        try:
            mesh = mesh_of(request)
            context = await admit(request, mesh, self._required)
            raw = await request.body()
            try:
                body = self._parse(request, raw)
            except ValidationError:
                await self._app(scope, _again(raw, receive), send)
                return
            seconds: float = getattr(mesh.settings, self._required.seconds)
            with acting_as(context), deadline.within(seconds):
                response = await route.endpoint(request, body)
        except MeshError as error:
            response = problem.answer(request, error)
        except HTTPException as error:
            response = problem.http_answer(request, error)
        await response(scope, receive, send)

    def _parse(self, request: Request, raw: bytes) -> Body:
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            # No body at all is as wrong for the model as one of another type.
            raw = b""
        return self._route.body.model_validate_json(raw)


def _again(raw: bytes, receive: Receive) -> Receive:
    """`receive` as if the body had not been read yet."""
    body: Message | None = {"type": "http.request", "body": raw, "more_body": False}

    async def replayed() -> Message:
        nonlocal body
        if body is None:
            return await receive()
        message, body = body, None
        return message

    return replayed
