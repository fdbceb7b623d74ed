"""One call to a provider: its deadline, its errors by our taxonomy, its measurements."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

from opentelemetry.trace import SpanKind, Status, StatusCode

from meshkit.logging import logger
from meshkit.providers.errors import ProviderError, Scope, Target, TimedOut
from meshkit.telemetry import meter, tracing

log = logger(__name__)

_calls = meter.create_counter(
    "citemesh.provider.calls", unit="{call}", description="Calls to providers, by how they ended."
)
_seconds = meter.create_histogram(
    "citemesh.provider.duration", unit="s", description="Time a call to a provider took."
)


Classify: TypeAlias = Callable[[Exception, Target], ProviderError]
"""Says what an SDK's exception means."""


@asynccontextmanager
async def attempt(target: Target, classify: Classify) -> AsyncIterator[None]:
    """Around one call: whatever it raises leaves as a `ProviderError`.

    It may hold a stream: its span is not the running one, since a generator's steps
    may be taken by several tasks. The deadline is for `within`, step by step.

    Raises:
        ProviderError: what happened, logged without a secret or a text.
    """
    began = time.perf_counter()
    outcome = "cancelled"
    attributes = {
        "gen_ai.provider.name": target.provider,
        "gen_ai.request.model": target.model,
        "gen_ai.operation.name": target.operation,
    }
    current = tracing.start("provider.call", SpanKind.CLIENT, attributes)
    try:
        try:
            yield
        except ProviderError:
            raise
        except Exception as error:  # noqa: BLE001 - classified, and raised as what it is
            # The SDK's message may hold a key or a document's text: neither kept nor chained.
            raise classify(error, target) from None
        outcome = "ok"
    except ProviderError as error:
        outcome = error.kind
        current.set_attribute("error.type", error.kind)
        current.set_status(Status(StatusCode.ERROR, error.reason))
        # Somebody has to act on a key or an account; everything else passes or is worked around.
        write = log.error if error.scope is Scope.ACCOUNT else log.warning
        write("provider call failed", **error.facts())
        raise
    finally:
        current.end()
        labels = {
            "provider": target.provider,
            "model": target.model,
            "operation": target.operation,
            "outcome": outcome,
        }
        _calls.add(1, labels)
        _seconds.record(time.perf_counter() - began, labels)


@asynccontextmanager
async def within(deadline: float, target: Target) -> AsyncIterator[None]:
    """Inside the block at most until `deadline`, in the event loop's time.

    Raises:
        TimedOut: the block was not done by then.
    """
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise TimedOut(target) from None


def until(seconds: float | None) -> float:
    """The event loop's time in so many seconds; far away for None."""
    return asyncio.get_running_loop().time() + (3600.0 if seconds is None else max(0.0, seconds))
