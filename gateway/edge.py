"""The outermost layer around every request: its id, its span, its size, its headers.

Also the last resort: an exception that nobody expected becomes a problem without
its text, and its log line has the request's id.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from http import HTTPMethod, HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import problem
from gateway.readiness import Readiness
from gateway.security import security_headers
from meshkit import access_log
from meshkit.admission import Place
from meshkit.context import RequestContext
from meshkit.errors import Cancelled, Internal, MeshError
from meshkit.ids import is_request_id, new_request_id
from meshkit.logging import logger
from meshkit.telemetry import metrics, tracing

log = logger(__name__)

METHODS = frozenset(HTTPMethod)
PROBES = frozenset({"/healthz", "/readyz", "/readyz/gateway", "/metrics"})
"""Asked every few seconds by machines; only what is wrong there is worth a line."""
REQUEST_ID_HEADER = "X-Request-ID"
TOO_LATE = frozenset({0, 499, HTTPStatus.GATEWAY_TIMEOUT})
"""Answers that came too late for their callers. Other errors are quick, and say nothing about
how long an answer takes."""

_duration = metrics.histogram("http.server.request.duration")


def request_id(given: str | None) -> str:
    """The caller's request id when it is sane, else a new one."""
    return given if given is not None and is_request_id(given) else new_request_id()


class Edge:
    """ASGI middleware around the application; see the module."""

    def __init__(
        self, app: ASGIApp, *, max_body_bytes: int, https_only: bool, readiness: Readiness
    ) -> None:
        self._app = app
        self._readiness = readiness
        self._max_body_bytes = max_body_bytes
        self._https_only = https_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        identity = request_id(headers.get(REQUEST_ID_HEADER))
        scope.setdefault("state", {})["request_id"] = identity
        started = time.perf_counter()
        added = security_headers(scope["path"], self._https_only)
        if self._readiness.draining:
            # An idle connection that we close may be just the one that a request comes on.
            added = (*added, (b"connection", b"close"))
        answer = _Answer(send, identity, added, started)
        # Anybody may invent methods; each would be a series of its own.
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        tracing.continue_from(headers)
        probed = scope["path"] in PROBES
        around = (
            tracing.unseen() if probed else tracing.serving(method, {"http.request.method": method})
        )
        with around as span:
            span.set_attribute("citemesh.request_id", identity)
            error: MeshError | None = None
            try:
                await self._app(scope, self._limited(scope, headers, receive), answer.send)
                error = scope["state"].get("error")
            except asyncio.CancelledError:
                error = Cancelled("CLIENT_GONE", "The client went away.")
                raise
            except Exception as unexpected:
                error = _unexpected(unexpected, identity)
                if answer.status:
                    raise
                await problem.response(error, identity)(scope, receive, answer.send)
            finally:
                place: Place | None = scope["state"].get("place")
                if place is not None:
                    if answer.status < HTTPStatus.BAD_REQUEST or answer.status in TOO_LATE:
                        place.answered()
                    place.leave()
                route = getattr(scope.get("route"), "path", "")
                seconds = time.perf_counter() - started
                span.update_name(f"{method} {route}".strip())
                span.set_attribute("http.route", route)
                span.set_attribute("http.response.status_code", answer.status)
                if error is not None:
                    tracing.record(span, error, server=True)
                _duration.record(
                    seconds,
                    {
                        "http.request.method": method,
                        "http.route": route,
                        "http.response.status_code": answer.status,
                        "outcome": _outcome(answer.status, error),
                    },
                )
                ok = answer.status < HTTPStatus.BAD_REQUEST and error is None
                if not (ok and probed):
                    access_log.write(
                        "request",
                        ok=ok,
                        method=method,
                        route=route,
                        status=answer.status,
                        reason=error.reason if error else "",
                        ms=round(seconds * 1000, 2),
                        first_ms=answer.first_ms,
                        bytes=answer.bytes,
                        request_id=identity,
                        project_id=_project(scope),
                    )

    def _limited(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """`receive`, ended with 413 when a body grows too large; uploads count for themselves."""
        if is_upload(scope["path"], headers.get("content-type", "")):
            return receive
        announced = headers.get("content-length", "0")
        taken = int(announced) if announced.isdigit() else 0
        too_large = taken > self._max_body_bytes
        taken = 0

        async def limited() -> Message:
            nonlocal taken
            if too_large:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._max_body_bytes:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return message

        return limited


def is_upload(path: str, content_type: str) -> bool:
    """Whether the request carries a file, which has a limit of its own."""
    return path.startswith("/v1/documents") and content_type.startswith("multipart/")


class _Answer:
    """Sends a response with the headers that every response has."""

    def __init__(
        self, send: Send, identity: str, headers: Iterable[tuple[bytes, bytes]], started: float
    ) -> None:
        self._send = send
        self._started = started
        self._identity = (REQUEST_ID_HEADER.lower().encode(), identity.encode())
        self._headers = headers
        self.status = 0
        """Status that was sent; 0 before."""
        self.bytes = 0
        """Of the body, sent so far."""
        self.first_ms = 0.0
        """When the first of them were sent."""

    async def send(self, message: Message) -> None:
        """Passes a message of the response on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = list(message.get("headers", ()))
            names = {name for name, _ in given}
            added = [header for header in self._headers if header[0] not in names]
            message = {**message, "headers": [*given, self._identity, *added]}
        elif length := len(message.get("body", b"")):
            if not self.bytes:
                self.first_ms = round((time.perf_counter() - self._started) * 1000, 2)
            self.bytes += length
        await self._send(message)


def _outcome(status: int, error: MeshError | None) -> str:
    """How a request ended, whatever status it began with."""
    if isinstance(error, Cancelled):
        return "gone"
    code = max(status, error.http_status) if error else status
    if code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "failed"
    return "refused" if code >= HTTPStatus.BAD_REQUEST else "ok"


def _project(scope: Scope) -> str:
    """The caller's project; empty for a stranger."""
    admitted: RequestContext | None = scope["state"].get("admitted")
    return admitted.project_id if admitted else ""


def _unexpected(error: Exception, identity: str) -> MeshError:
    if isinstance(error, MeshError):
        return error
    log.error("unexpected error", request_id=identity, exc_info=error)
    return Internal("INTERNAL", "The gateway failed to handle this; its log has the request id.")
