"""Headers that tell browsers what pages may do, and which pages may call us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import problem
from meshkit.errors import PermissionDenied

_API_POLICY = "default-src 'none'; frame-ancestors 'none'"
# The console and the documentation: our own files and our own interface, nothing else.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_COMMON = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_API = {**_COMMON, "Content-Security-Policy": _API_POLICY, "Cache-Control": "no-store"}
_PAGE = {**_COMMON, "Content-Security-Policy": _PAGE_POLICY, "Cache-Control": "no-cache"}
_HTTPS = {"Strict-Transport-Security": "max-age=31536000"}


def is_page(path: str) -> bool:
    """Whether a browser shows what is at this path."""
    return path in ("/", "/docs") or path.startswith("/console/")


def _raw(*headers: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(
        (name.lower().encode(), value.encode()) for part in headers for name, value in part.items()
    )


_HEADERS = {
    (page, https): _raw(_PAGE if page else _API, _HTTPS if https else {})
    for page in (False, True)
    for https in (False, True)
}


def security_headers(path: str, https_only: bool) -> tuple[tuple[bytes, bytes], ...]:
    """Headers for a response at this path, as ASGI sends them."""
    return _HEADERS[is_page(path), https_only]


class Cors(CORSMiddleware):
    """CORS for the origins that are allowed; a refused preflight is a problem, too."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Retry-After"],
            max_age=600,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] == "http" and _is_preflight(scope):
            answer = self.preflight_response(Headers(scope=scope))
            if answer.status_code != 200:
                error = PermissionDenied(
                    "ORIGIN_NOT_ALLOWED",
                    "Pages of this origin may not call the interface in this way.",
                )
                answer = problem.response(error, scope["state"]["request_id"])
            await answer(scope, receive, send)
            return
        await super().__call__(scope, receive, send)


def _is_preflight(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return (
        scope["method"] == "OPTIONS"
        and "origin" in headers
        and "access-control-request-method" in headers
    )
