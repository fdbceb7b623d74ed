"""Names of telemetry: declared, checked where they are used, and cheap where nobody looks."""

from __future__ import annotations

import ast
import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from meshkit import access_log
from meshkit.cli import waterfall
from meshkit.database.statements import summary
from meshkit.telemetry import metrics, otlp_json
from meshkit.telemetry.schema import Undeclared, parse, schema
from tools import observability
from tools.telemetry import generative, instruments


def test_an_instrument_that_is_not_declared_cannot_be_made() -> None:
    with pytest.raises(Undeclared, match=r"citemesh\.unheard_of"):
        metrics.counter("citemesh.unheard_of")


def test_a_schema_that_uses_an_attribute_it_does_not_declare_is_refused() -> None:
    content: dict[str, Any] = {
        "attributes": {},
        "events": {},
        "everywhere": [],
        "spans": {},
        "boundaries": {},
        "metrics": {"m": {"instrument": "counter", "brief": "One.", "attributes": ["who"]}},
        "exported": {},
    }
    with pytest.raises(Undeclared, match="m uses who"):
        parse(content)


@pytest.mark.parametrize(
    ("name", "series"),
    [
        ("citemesh.answers", "citemesh_answers_total"),
        ("rpc.server.duration", "rpc_server_duration_seconds_bucket"),
        ("citemesh.ingestion.oldest", "citemesh_ingestion_oldest_seconds"),
        ("db.client.connection.count", "db_client_connection_count"),
    ],
)
def test_a_metric_has_the_name_that_prometheus_shows(name: str, series: str) -> None:
    assert series in schema().metric(name).series


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("POST /v1/answers", "server"),
        ("citemesh.retrieval.v1.RetrievalService/Search", "client"),
        ("SELECT retrieval.search_1", "client"),
        ("chat gemini-3.8-flash", "client"),
    ],
)
def test_a_span_is_found_by_its_pattern(name: str, kind: str) -> None:
    assert schema().span(name, kind).kind == kind
    with pytest.raises(Undeclared):
        schema().span(name + " of somebody", kind)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("SELECT * FROM retrieval.search_1($1, $2)", "SELECT retrieval.search_1"),
        ("SELECT usage.reserve($1, $2)", "SELECT usage.reserve"),
        ("SELECT d.title, v.state FROM ingestion.document d", "SELECT ingestion.document"),
        ("\n UPDATE ingestion.document SET a = 'b' WHERE c = $1", "UPDATE ingestion.document"),
        ("INSERT INTO generation.answer (a) VALUES ($1)", "INSERT generation.answer"),
        ("BEGIN;", "BEGIN"),
        ("VACUUM retrieval.chunk", "OTHER"),
        ("", "OTHER"),
    ],
)
def test_a_statement_is_named_after_what_it_does_without_its_text(
    statement: str, said: str
) -> None:
    assert summary(statement) == said
    schema().span(said, "client")


def test_what_code_names_is_found() -> None:
    tree = ast.parse('a = metrics.counter("x.y")\nspan.set_attribute("gen_ai.z", 1)\n')
    assert list(instruments(tree)) == [("counter", "x.y")]
    assert list(generative(tree)) == ["gen_ai.z"]


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("rate(citemesh_answers_total[5m", "does not parse"),
        ("rate(citemesh_replies_total[5m])", "nobody serves"),
        ('citemesh_answers_total{project="p"}', "a label it does not have"),
        ('citemesh_answers_total{cache="sometimes"}', "does not exist"),
        ("sum by (project) (citemesh_answers_total)", "none of its series has"),
    ],
)
def test_a_query_that_would_show_nothing_is_found(query: str, problem: str) -> None:
    (found,) = observability.Names(schema(), {}).problems(query)
    assert problem in found


def test_a_query_over_what_rules_record_has_no_problem() -> None:
    rules = [{"record": "a:b", "expr": "sum by (cache) (rate(citemesh_answers_total[5m]))"}]
    names = observability.Names(schema(), observability.recorded(rules))
    assert list(names.problems('a:b{cache="none"} > 0')) == []


def test_an_alert_that_links_nowhere_is_found() -> None:
    rule = {
        "labels": {"severity": "page"},
        "annotations": {
            "summary": "s",
            "description": "d",
            "runbook_url": "docs/runbook.md#no-such-thing",
        },
    }
    headings = observability.anchors("# Runbook\n\n## Questions fail\n")
    (found,) = observability.alert_problems(rule, headings)
    assert "no-such-thing" in found
    rule["annotations"]["runbook_url"] = "docs/runbook.md#questions-fail"  # type: ignore[index]
    assert list(observability.alert_problems(rule, headings)) == []


def test_a_waterfall_shows_stages_in_the_order_in_which_they_began() -> None:
    timings = {"search": 60.0, "first_token": 75.0, "search.dense": 20.0, "embed": 8.0, "total": 80}
    started = {"search": 10.0, "search.dense": 40.0, "embed": 1.0}
    head, *rows = waterfall.lines(timings, started)
    assert head.split() == ["stage", "start", "ms"]
    assert [row.split()[0] for row in rows] == ["embed", "search", "dense", "first_token", "total"]
    assert rows[1].count("█") == 36, "60 of 80 ms are three quarters of 48 characters"
    assert rows[2].startswith("  dense")
    assert rows[3].endswith("◆")
    assert list(waterfall.lines({}, {})) == []


@pytest.fixture
def policy() -> Iterator[Any]:
    """Sets the policy of the access log; afterwards it is what it was."""
    before = access_log._policy
    yield access_log.configure
    access_log.configure(before)


@pytest.mark.parametrize(
    ("wanted", "lines"), [("all", ["OK", "INTERNAL"]), ("errors", ["INTERNAL"]), ("off", [])]
)
def test_the_access_log_keeps_what_is_wanted(
    policy: Any, capsys: pytest.CaptureFixture[str], wanted: str, lines: list[str]
) -> None:
    policy(access_log.Policy("rerank", wanted, json=True))
    access_log.write("call", ok=True, status="OK")
    access_log.write("call", ok=False, status="INTERNAL")
    written = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["status"] for line in written] == lines
    assert all(line["service"] == "rerank" and line["event"] == "call" for line in written)


def test_spans_in_a_file_say_what_they_say_to_a_collector() -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "here", "n": 1}))
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("citemesh", "1.0")
    far = SpanContext(
        1, 2, is_remote=True, trace_flags=TraceFlags(1), trace_state=TraceState([("a", "b")])
    )
    elsewhere = set_span_in_context(NonRecordingSpan(far))
    facts = {"text": "größe", "yes": True, "no": False, "zero": 0, "share": 0.5, "list": ["a", "b"]}
    links = [Link(far, {"n": 0})]
    with tracer.start_as_current_span("outer", elsewhere, SpanKind.SERVER, facts, links) as outer:
        outer.add_event("first_message")
        outer.add_event("other", {"n": 7})
        with provider.get_tracer("other").start_as_current_span("inner"):
            pass
        outer.set_status(Status(StatusCode.ERROR, "REASON"))
    spans = kept.get_finished_spans()
    said = json_format.MessageToDict(encode_spans(spans))
    for resource in said["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in (*scope["spans"], *links_of(scope["spans"])):
                for name in {"traceId", "spanId", "parentSpanId"} & span.keys():
                    span[name] = base64.b64decode(span[name]).hex()
    assert otlp_json.request(spans) == said


def links_of(spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [link for span in spans for link in span.get("links", ())]
