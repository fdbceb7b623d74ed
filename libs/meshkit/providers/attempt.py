"""One call to a provider: its deadline, its errors by our taxonomy, its measurements."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TypeAlias

from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from meshkit.logging import logger
from meshkit.providers.errors import ProviderError, Scope, Target, TimedOut
from meshkit.telemetry import gen_ai, metrics, tracing

log = logger(__name__)

_calls = metrics.counter("citemesh.provider.calls")
_seconds = metrics.histogram("citemesh.provider.duration")
_first_token = metrics.histogram("citemesh.provider.first_token")


Classify: TypeAlias = Callable[[Exception, Target], ProviderError]
"""Says what an SDK's exception means."""


class Call:
    """A call under way, as its trace and the metrics see it."""

    def __init__(self, target: Target, current: Span) -> None:
        self._labels = {"provider": target.provider, "model": target.model}
        self._span = current
        self._began = time.perf_counter()
        self._spoke = False
        self._shown = current.is_recording() and tracing.content_is_wanted()
        self._text: list[str] = []

    def asked(self, messages: Iterable[tuple[str, str]]) -> None:
        """Notes role and text of what the model reads, where `trace_content` allows it."""
        if self._shown:
            self._span.set_attribute(gen_ai.INPUT_MESSAGES, gen_ai.messages(messages))

    def wrote(self, text: str) -> None:
        """Notes a piece of the model's text: when the first one came, and itself if allowed."""
        if not self._spoke:
            self._spoke = True
            self._span.add_event("first_token")
            _first_token.record(time.perf_counter() - self._began, self._labels)
        if self._shown:
            self._text.append(text)

    def used(self, *, input_tokens: int, output_tokens: int = 0, finish: str = "") -> None:
        """Notes the tokens that were read and written, and why a text ended."""
        self._span.set_attribute(gen_ai.INPUT_TOKENS, input_tokens)
        if output_tokens:
            self._span.set_attribute(gen_ai.OUTPUT_TOKENS, output_tokens)
        if finish:
            self._span.set_attribute(gen_ai.FINISH_REASONS, [finish])
        if self._text:
            said = gen_ai.messages([("assistant", "".join(self._text))])
            self._span.set_attribute(gen_ai.OUTPUT_MESSAGES, said)


@asynccontextmanager
async def attempt(target: Target, classify: Classify) -> AsyncIterator[Call]:
    """Around one call: whatever it raises leaves as a `ProviderError`.

    It may hold a stream: its span is not the running one, since a generator's steps
    may be taken by several tasks. The deadline is for `within`, step by step.

    Raises:
        ProviderError: what happened, logged without a secret or a text.
    """
    began = time.perf_counter()
    outcome = "cancelled"
    operation = gen_ai.OPERATIONS.get(target.operation, target.operation)
    attributes = {
        gen_ai.PROVIDER: gen_ai.PROVIDERS.get(target.provider, target.provider),
        gen_ai.REQUEST_MODEL: target.model,
        gen_ai.OPERATION: operation,
    }
    current = tracing.start(f"{operation} {target.model}", SpanKind.CLIENT, attributes)
    try:
        try:
            yield Call(target, current)
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
    except BaseException as error:
        # Cancelled, or given up by whoever read the stream.
        tracing.record(current, error)
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
