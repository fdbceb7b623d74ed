"""Spans: around stages of work, and around calls that enter or leave a process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from meshkit.errors import Cancelled, InvalidInput, MeshError, NotFound

_tracer = trace.get_tracer("citemesh")
_ids = RandomIdGenerator()
_children_follow = False
_content = False

CALLERS_FAULT = (InvalidInput, NotFound, Cancelled)
"""Errors that are answers: the span of a server that gives one is not in error."""


def recording() -> bool:
    """Whether the running span will be seen: what only serves it may be left undone otherwise."""
    return trace.get_current_span().is_recording()


def event(name: str, attributes: Mapping[str, AttributeValue] | None = None) -> None:
    """Notes a moment on the running span."""
    trace.get_current_span().add_event(name, attributes)


def current_trace_id() -> str:
    """The trace of the running request, 32 hex digits; empty outside of one."""
    found = trace.get_current_span().get_span_context()
    return format(found.trace_id, "032x") if found.is_valid else ""


def children_follow(follow: bool) -> None:
    """Says whether the sampler leaves out every span of a trace that was left out."""
    global _children_follow  # noqa: PLW0603 - a process has one sampler
    _children_follow = follow


def want_content(wanted: bool) -> None:
    """Says whether spans of calls to models carry the texts; the setting `trace_content`."""
    global _content  # noqa: PLW0603 - a process has one setting
    _content = wanted


def content_is_wanted() -> bool:
    """Whether texts may stand in spans."""
    return _content


def _left_out() -> Span | None:
    """The running span when its trace is not recorded: it stands for all below it.

    A search makes nine spans. Nine of ten searches are not recorded, and pay nothing.
    """
    current = trace.get_current_span()
    found = current.get_span_context()
    if _children_follow and found.is_valid and not found.trace_flags.sampled:
        return current
    return None


def record(current: Span, error: BaseException, *, server: bool = False) -> None:
    """Marks a span with the error that ended it, truthfully and without its text."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        current.set_attribute("citemesh.cancelled", True)
        current.set_status(Status(StatusCode.ERROR, "CANCELLED"))
        return
    if isinstance(error, Cancelled):
        current.set_attribute("citemesh.cancelled", True)
    reason = error.reason if isinstance(error, MeshError) else type(error).__name__
    current.set_attribute("error.type", reason)
    if not (server and isinstance(error, CALLERS_FAULT)):
        current.set_status(Status(StatusCode.ERROR, reason))


def failed(reason: str) -> None:
    """Marks the running span, where what it stands for failed though nothing was raised."""
    current = trace.get_current_span()
    current.set_attribute("error.type", reason)
    current.set_status(Status(StatusCode.ERROR, reason))


@contextmanager
def span(
    name: str,
    attributes: Mapping[str, AttributeValue] | None = None,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    links: Sequence[trace.Link] = (),
) -> Iterator[Span]:
    """A span around the block; an error that leaves the block marks it and goes on."""
    if (outer := _left_out()) is not None:
        yield outer
        return
    with _tracer.start_as_current_span(
        name,
        kind=kind,
        attributes=attributes,
        links=links,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as error:
            record(current, error)
            raise


@contextmanager
def unseen() -> Iterator[Span]:
    """Nothing in the block has a span: what machines ask every few seconds."""
    fresh = trace.SpanContext(_ids.generate_trace_id(), _ids.generate_span_id(), is_remote=False)
    with trace.use_span(trace.NonRecordingSpan(fresh)) as current:
        yield current


@contextmanager
def serving(name: str, attributes: Mapping[str, AttributeValue]) -> Iterator[Span]:
    """The span of a call being served; the caller's own mistakes leave it unmarked."""
    if (outer := _left_out()) is not None:
        yield outer
        return
    with _tracer.start_as_current_span(
        name,
        kind=SpanKind.SERVER,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as error:
            record(current, error, server=True)
            raise


def start(name: str, kind: SpanKind, attributes: Mapping[str, AttributeValue]) -> Span:
    """A span that the caller ends, for calls whose end is not a block's end."""
    if (outer := _left_out()) is not None:
        return trace.NonRecordingSpan(outer.get_span_context())
    return _tracer.start_span(
        name,
        kind=kind,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    )


def elapsed(
    name: str,
    seconds: float,
    attributes: Mapping[str, AttributeValue],
    *,
    kind: SpanKind = SpanKind.CLIENT,
    error: BaseException | None = None,
) -> None:
    """A span of something that took so many seconds and has just ended."""
    if not recording():
        return
    ended = time.time_ns()
    done = _tracer.start_span(
        name, kind=kind, attributes=attributes, start_time=ended - round(seconds * 1e9)
    )
    if error is not None:
        record(done, error)
    done.end(ended)


def propagation() -> list[tuple[str, str]]:
    """Headers that carry the running trace to the next hop."""
    carrier: dict[str, str] = {}
    inject(carrier)
    return list(carrier.items())


def propagation_of(current: Span) -> list[tuple[str, str]]:
    """Headers that make the next hop a child of `current`."""
    carrier: dict[str, str] = {}
    inject(carrier, trace.set_span_in_context(current))
    return list(carrier.items())


def continue_from(headers: Mapping[str, str]) -> None:
    """Makes the trace in the headers the running one for the rest of this task."""
    otel_context.attach(extract(headers))


def link_to(traceparent: str) -> list[trace.Link]:
    """A link to the request that caused background work; empty when there is none."""
    found = trace.get_current_span(extract({"traceparent": traceparent})).get_span_context()
    return [trace.Link(found)] if found.is_valid else []
