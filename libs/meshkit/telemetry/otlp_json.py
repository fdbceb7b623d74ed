"""Spans in OTLP's JSON form, written out: by way of protobuf's objects one took 0.17 ms. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode

KINDS = {kind: f"SPAN_KIND_{kind.name}" for kind in SpanKind}
CODES = {StatusCode.OK: "STATUS_CODE_OK", StatusCode.ERROR: "STATUS_CODE_ERROR"}
REMOTE_KNOWN, REMOTE = 0x100, 0x200
"""Flags: whether the parent was in another process is told, and it was."""


def request(spans: Sequence[ReadableSpan]) -> dict[str, Any]:
    """An `ExportTraceServiceRequest`: spans by what made them. Ids are hex, as OTLP has them."""
    groups: dict[Resource, dict[InstrumentationScope | None, list[dict[str, Any]]]] = {}
    for span in spans:
        scopes = groups.setdefault(span.resource, {})
        scopes.setdefault(span.instrumentation_scope, []).append(_span(span))
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource.attributes)},
                "scopeSpans": [
                    {"scope": _scope(scope), "spans": written} for scope, written in scopes.items()
                ],
            }
            for resource, scopes in groups.items()
        ]
    }


def _scope(scope: InstrumentationScope | None) -> dict[str, Any]:
    if scope is None:
        return {}
    return _given(name=scope.name, version=scope.version)


def _span(span: ReadableSpan) -> dict[str, Any]:
    context = span.get_span_context()
    assert context is not None  # only of a span that never began
    return _given(
        **_ids(context),
        # The SDK tells a link's no collector either.
        traceState=",".join(f"{key}={value}" for key, value in context.trace_state.items()),
        parentSpanId=format(span.parent.span_id, "016x") if span.parent else "",
        name=span.name,
        kind=KINDS[span.kind],
        startTimeUnixNano=str(span.start_time),
        endTimeUnixNano=str(span.end_time),
        attributes=_attributes(span.attributes),
        droppedAttributesCount=span.dropped_attributes,
        events=[_event(event) for event in span.events],
        droppedEventsCount=span.dropped_events,
        links=[_link(link) for link in span.links],
        droppedLinksCount=span.dropped_links,
        flags=_flags(span.parent),
    ) | {"status": _given(code=CODES.get(span.status.status_code), message=span.status.description)}


def _event(event: Event) -> dict[str, Any]:
    return _given(
        timeUnixNano=str(event.timestamp),
        name=event.name,
        attributes=_attributes(event.attributes),
        droppedAttributesCount=event.dropped_attributes,
    )


def _link(link: Link) -> dict[str, Any]:
    return _given(
        **_ids(link.context),
        attributes=_attributes(link.attributes),
        droppedAttributesCount=link.dropped_attributes,
        flags=_flags(link.context),
    )


def _ids(context: SpanContext) -> dict[str, str]:
    return {
        "traceId": format(context.trace_id, "032x"),
        "spanId": format(context.span_id, "016x"),
    }


def _flags(parent: SpanContext | None) -> int:
    return REMOTE_KNOWN | (REMOTE if parent and parent.is_remote else 0)


def _attributes(attributes: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in (attributes or {}).items()]


def _value(value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case str():
            return {"stringValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case _:
            return {"arrayValue": {"values": _values(value)}}


def _values(values: Iterable[Any]) -> list[dict[str, Any]]:
    return [_value(value) for value in values]


def _given(**fields: Any) -> dict[str, Any]:
    """Without what says nothing, as protobuf leaves it out."""
    return {name: value for name, value in fields.items() if value}
