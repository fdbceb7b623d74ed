"""Who is asking, for which project: carried by every call, signed, never guessed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from meshkit.errors import PermissionDenied, Unauthenticated
from meshkit.project import DEFAULTS, ProjectSettings

READ, WRITE, ADMIN, INTERNAL = "read", "write", "admin", "internal"
SCOPES = frozenset({READ, WRITE, ADMIN, INTERNAL})


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The verified claims of one request."""

    project_id: str
    """Project everything happens in."""
    principals: tuple[str, ...]
    """What the caller is, for access lists: `user:ann`, `group:hr`."""
    scopes: frozenset[str]
    """What the caller may do: `read`, `write`, `admin`, `internal`."""
    subject: str
    """Who calls: an API key's id, a user, `service:ingestion`."""
    request_id: str
    """The request's name in logs, traces and errors."""
    issuer: str
    """Who signed: `gateway` or a service."""
    expires_at: float
    """Seconds since 1970 after which the token is refused."""
    token: str
    """The signed form, sent on with every call."""
    settings: ProjectSettings = DEFAULTS
    """What the project decides for itself."""


_current: ContextVar[RequestContext | None] = ContextVar("citemesh_request", default=None)


def peek() -> RequestContext | None:
    """The context of the request being served; None outside of one."""
    return _current.get()


def current() -> RequestContext:
    """The context of the request being served.

    Raises:
        Unauthenticated: CONTEXT_MISSING outside of a request.
    """
    context = _current.get()
    if context is None:
        raise Unauthenticated("CONTEXT_MISSING", "The call carries no signed context.")
    return context


def require_scope(*scopes: str) -> RequestContext:
    """The current context, if it has one of the scopes.

    Raises:
        PermissionDenied: SCOPE_MISSING when it has none of them.
    """
    context = current()
    if context.scopes.isdisjoint(scopes):
        raise PermissionDenied("SCOPE_MISSING", f"This needs the scope {' or '.join(scopes)}.")
    return context


def enter(context: RequestContext) -> None:
    """Makes `context` the current one for the rest of this task."""
    _current.set(context)


@contextmanager
def acting_as(context: RequestContext) -> Iterator[RequestContext]:
    """Makes `context` the current one inside the block, for background work."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)
