"""Repeats a call while what it needs is away, for a bounded time."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from meshkit.errors import (
    BudgetExhausted,
    Cancelled,
    DeadlineExceeded,
    LimitExceeded,
    MeshError,
    Unavailable,
)

T = TypeVar("T")

FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 2.0
"""How much later than the service a document may be back."""


def is_transient(error: MeshError) -> bool:
    """Whether the same call may succeed later without anybody changing anything."""
    if isinstance(error, BudgetExhausted):
        return False
    return isinstance(error, Unavailable | DeadlineExceeded | LimitExceeded | Cancelled)


async def patiently(call: Callable[[], Awaitable[T]], patience_seconds: float) -> T:
    """The call's result, repeated with growing, jittered pauses while it fails transiently.

    Raises:
        MeshError: the last error when patience has ended, others at once.
    """
    until = time.monotonic() + patience_seconds
    delay = FIRST_DELAY_SECONDS
    while True:
        try:
            return await call()
        except MeshError as error:
            pause = (error.retry_after or delay) * random.uniform(0.5, 1.0)  # noqa: S311
            if not is_transient(error) or time.monotonic() + pause > until:
                raise
        await asyncio.sleep(pause)
        delay = min(delay * 2, LONGEST_DELAY_SECONDS)
