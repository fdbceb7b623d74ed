"""What a mesh says about itself: traces, metrics and logs, with declared names and no text.

Runs last of the mesh's tests: what is looked at is everything that all of them did.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from meshkit.components import COMPONENTS
from meshkit.telemetry.schema import Undeclared, schema
from tests.mesh.conftest import RunningMesh, wait_until
from tests.mesh.documents import ingest
from tests.mesh.planted import PROVIDER_KEY, QUESTION, SENTENCE, TITLE
from tests.mesh.test_question import server_sent_events
from tests.mesh.traces import Span, spans


@pytest.fixture(scope="module")
def asked(mesh: RunningMesh, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A document and a question, streamed; the `done` event."""
    path = tmp_path_factory.mktemp("planted") / "logbook.txt"
    path.write_text(f"{SENTENCE}\n\nIt hangs beside the barometer.\n")
    ingest(mesh.http, path, title=TITLE)
    body = {"question": QUESTION, "stream": True, "bypass_cache": True}
    with mesh.http.stream("POST", "/v1/answers", json=body) as reply:
        events = list(server_sent_events(reply.iter_lines()))
    name, done = events[-1]
    assert name == "done", events[-1]
    return done


def in_trace(mesh: RunningMesh, trace_id: str) -> list[Span]:
    return [span for span in mesh.spans() if span.trace_id == trace_id]


def test_the_trace_of_an_answer_goes_down_to_the_statements_and_shows_the_first_token(
    mesh: RunningMesh, asked: dict[str, Any]
) -> None:
    answer = "citemesh.generation.v1.GenerationService/Answer"
    expected = {
        ("gateway", "POST /v1/answers"),
        ("gateway", answer),
        ("generation", answer),
        ("generation", "answer.guard_input"),
        ("generation", "answer.search"),
        ("generation", "answer.generate"),
        ("retrieval", "retrieval.lexical"),
        ("retrieval", "SELECT retrieval.search"),
    }

    def found() -> dict[tuple[str, str], Span]:
        return {
            # Every space has a function of its own: `search_1`.
            (span.service.removeprefix("citemesh-"), re.sub(r"_\d+$", "", span.name)): span
            for span in in_trace(mesh, asked["trace_id"])
        }

    # Each process writes its spans when it comes to it.
    wait_until(lambda: expected <= found().keys(), 60, f"one trace with {expected}")
    mine = found()
    root = mine["gateway", "POST /v1/answers"]
    assert root.parent_id == ""
    assert "first_token" in root.moments
    assert {"first_message", "first_token", "total"} <= mine["generation", answer].moments
    assert "first_message" in mine["gateway", answer].moments
    statement = mine["retrieval", "SELECT retrieval.search"]
    assert statement.attributes["db.system.name"] == "postgresql"


def test_the_processing_of_a_document_is_a_trace_that_links_to_its_upload(
    mesh: RunningMesh, asked: dict[str, Any]
) -> None:
    document = asked["citations"][0]["document_id"]
    services = {"ingestion", "guardrail", "embedding_bulk", "retrieval"}

    def work() -> list[Span]:
        return [
            span
            for span in mesh.spans()
            if span.name == "ingestion.process"
            and span.attributes["citemesh.document_id"] == document
        ]

    def inside() -> set[str]:
        traces = {span.trace_id for span in work()}
        found = {span.service for span in mesh.spans() if span.trace_id in traces}
        return {service.removeprefix("citemesh-") for service in found}

    wait_until(lambda: services <= inside(), 60, f"one trace with {services}")
    (found,) = work()
    assert found.parent_id == ""
    (linked,) = found.links

    def uploaded() -> bool:
        return any(s.trace_id == linked and s.name == "POST /v1/documents" for s in mesh.spans())

    wait_until(uploaded, 60, "the trace of the upload")


def test_an_answer_says_when_each_of_its_stages_began(asked: dict[str, Any]) -> None:
    timings, started = asked["timings_ms"], asked["started_ms"]
    assert set(timings) - set(started) == {"first_token", "total"}
    assert {"search", "search.lexical", "search.dense", "generate"} <= started.keys()
    assert all(0 <= begun <= timings["total"] for begun in started.values())
    assert started["search"] <= started["search.dense"] <= started["generate"]


def directories(scratch: Path) -> list[Path]:
    """Data directories of every mesh of this session."""
    return list(scratch.glob("*/data"))


def test_no_span_attribute_or_event_is_undeclared(scratch: Path, asked: dict[str, Any]) -> None:
    declared, problems, seen = schema(), set(), 0
    for span in spans(each / "traces" for each in directories(scratch)):
        seen += 1
        try:
            said = declared.span(span.name, span.kind)
        except Undeclared as error:
            problems.add(f"{error} ({span.service})")
            continue
        for name in span.attributes.keys() - said.attributes - declared.everywhere:
            problems.add(f"the span {said.name} carries {name}")
        for name, value in span.attributes.items():
            if (few := declared.attributes.get(name)) and few.values:
                values = value if isinstance(value, list) else [value]
                problems |= {f"{name} is {v}" for v in values if v not in few.values}
        for event in span.events:
            if event.name not in said.events:
                problems.add(f"the span {said.name} has the event {event.name}")
            elif event.attributes.keys() - declared.events[event.name]:
                problems.add(f"the event {event.name} carries {sorted(event.attributes)}")
    assert problems == set()
    assert seen > 100


def families(mesh: RunningMesh) -> Iterator[tuple[str, Family]]:
    """What every process tells Prometheus."""
    for component in COMPONENTS:
        for family in text_string_to_metric_families(mesh.metrics(component.name)):
            yield component.name, family


def test_no_metric_or_label_is_undeclared_and_no_label_names_a_project_or_a_document(
    mesh: RunningMesh, asked: dict[str, Any]
) -> None:
    declared = {name: metric for metric in schema().metrics.values() for name in metric.series}
    few = {a.name.replace(".", "_"): a.values for a in schema().attributes.values() if a.values}
    problems = set()
    seen = defaultdict(set)
    for component, family in families(mesh):
        for sample in family.samples:
            if sample.name in schema().exported or sample.name.endswith("_created"):
                continue
            metric = declared.get(sample.name)
            if metric is None:
                problems.add(f"{component} serves {sample.name}")
                continue
            seen[component].add(metric.name)
            problems |= {
                f"{sample.name} has the label {label}"
                for label in sample.labels.keys() - metric.labels - {"le"}
            }
            problems |= {
                f"{sample.name} has {label}={value}"
                for label, value in sample.labels.items()
                if value.startswith(("proj_", "prj_", "doc_", "req_", "key_"))
                or (few.get(label) and value not in few[label])
            }
    assert problems == set()
    for component in COMPONENTS:
        assert "citemesh.eventloop.lag" in seen[component.name]
        if component.grpc_service:
            assert "rpc.server.duration" in seen[component.name]
    assert "http.server.request.duration" in seen["gateway"]
    assert {"citemesh.answers", "citemesh.answer.first_token", "citemesh.stage.duration"} <= seen[
        "generation"
    ]
    assert {
        "citemesh.ingestion.oldest",
        "citemesh.ingestion.versions",
        "citemesh.ingestion.until_ready",
    } <= seen["ingestion"]
    assert {"citemesh.guardrail.verdicts", "citemesh.guardrail.groundedness"} <= seen["guardrail"]
    assert {"citemesh.embedding.texts", "citemesh.usage.tokens"} <= seen["embedding"]


def test_what_searches_find_is_a_distribution(mesh: RunningMesh, asked: dict[str, Any]) -> None:
    names = ("similarity", "lexical_score", "rerank_score", "overlap", "duration")
    expected = {schema().metric(f"citemesh.retrieval.{name}").prometheus for name in names}
    expected |= {"db_client_connection_count", "db_client_connection_wait_time_seconds"}

    def found() -> bool:
        # On a busy machine a search may have to do without the cross-encoder.
        body = {"query": QUESTION, "bypass_cache": True}
        assert mesh.http.post("/v1/search", json=body).status_code == 200
        served = text_string_to_metric_families(mesh.metrics("retrieval"))
        return expected <= {family.name for family in served if family.samples}

    wait_until(found, 90, f"retrieval serves {expected}")


def lines(mesh: RunningMesh, name: str) -> list[dict[str, Any]]:
    """The JSON lines of a process's log."""
    return [json.loads(line) for line in mesh.log(name).splitlines() if line.startswith("{")]


def test_every_request_has_a_line_with_trace_project_and_request(
    mesh: RunningMesh, asked: dict[str, Any]
) -> None:
    def found() -> list[dict[str, Any]]:
        return [
            line
            for line in lines(mesh, "gateway")
            if line["event"] == "request" and line.get("trace_id") == asked["trace_id"]
        ]

    wait_until(lambda: bool(found()), 30, "the stream has its line")
    (line,) = found()
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/answers", 200)
    assert line["reason"] == "", "it was read to its end"
    assert line["project_id"]
    assert line["request_id"]
    assert line["span_id"]
    assert 0 < line["first_ms"] <= line["ms"]
    assert line["bytes"] > 0


def test_what_was_planted_is_in_no_log_of_any_mesh(
    mesh: RunningMesh, scratch: Path, asked: dict[str, Any]
) -> None:
    assert mesh.issuer is not None
    project = mesh.http.get("/v1/projects").json()["projects"][0]["id"]
    token = mesh.issuer.token(project)
    authorised = {"Authorization": f"Bearer {token}"}
    good = mesh.http.post("/v1/search", json={"query": QUESTION}, headers=authorised)
    assert good.status_code == 200, good.text
    bad = {"Authorization": f"Bearer {token[:-8]}AAAAAAAA"}
    assert mesh.http.post("/v1/search", json={"query": QUESTION}, headers=bad).status_code == 401
    wrong = mesh.http.post("/v1/search", json={"query": QUESTION, "top_k": "plantedquestion"})
    assert wrong.status_code == 400
    planted = {
        "a question": "plantedquestion",
        "the text of a document": "plantedsentence",
        "the title of a document": "plantedtitle",
        "a provider's key": PROVIDER_KEY,
        "an API key": mesh.api_key,
        "a token": token.split(".")[1],
        "the signature of a token": token.split(".")[2],
    }
    logs = [path for each in directories(scratch) for path in (each / "logs").glob("*.log*")]
    outputs = (each.parent / "up.out" for each in directories(scratch))
    logs += [path for path in outputs if path.exists()]
    assert len(logs) > len(COMPONENTS)
    found = {
        (what, path.name)
        for path in logs
        for what, text in planted.items()
        if text in path.read_text(errors="replace")
    }
    assert found == set()
