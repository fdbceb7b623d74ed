"""The time a request has left: a budget that every hop spends from.

gRPC does not hand a deadline on to the next call by itself, so the server
interceptor notes it here and the client interceptor cuts it from what it asks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

MARGIN_SECONDS = 0.02
"""Kept back at every hop for the way home and an answer about what failed."""

_expires: ContextVar[float | None] = ContextVar("citemesh_deadline", default=None)


def set_remaining(seconds: float | None) -> None:
    """Notes how long the request being served may take; None means no limit."""
    _expires.set(None if seconds is None else time.monotonic() + seconds)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Inside the block at most `seconds` are left, less when there already were less."""
    left = remaining()
    token = _expires.set(time.monotonic() + (seconds if left is None else min(seconds, left)))
    try:
        yield
    finally:
        _expires.reset(token)


def remaining() -> float | None:
    """Seconds left for the request being served, at least 0; None without a limit."""
    expires = _expires.get()
    return None if expires is None else max(0.0, expires - time.monotonic())


def for_call(timeout: float | None) -> float | None:
    """Timeout for a call to the next hop: what was asked, within what is left."""
    left = remaining()
    if left is None:
        return timeout
    left = max(0.001, left - MARGIN_SECONDS)
    return left if timeout is None else min(timeout, left)
