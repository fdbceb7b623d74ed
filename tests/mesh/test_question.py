"""The whole house: a real PDF in, a cited answer out, over REST and over stubs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import citemesh
from citemesh.generation.v1 import CONFIDENCE_GROUNDED, CONFIDENCE_VERIFIED
from citemesh.retrieval.v1 import SearchRequest
from tests.mesh.conftest import RunningMesh, wait_until
from tests.mesh.documents import ingest

SAMPLES = Path(__file__).parents[1] / "samples"
QUESTION = "How many days of paid vacation does every employee have in a calendar year?"


@pytest.fixture(scope="module")
def handbook(mesh: RunningMesh) -> dict[str, Any]:
    """The sample PDF, searchable."""
    return ingest(mesh.http, SAMPLES / "employee-handbook.pdf")


def ask(http: httpx.Client, question: str, **more: Any) -> dict[str, Any]:
    reply = http.post("/v1/answers", json={"question": question, **more})
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def test_an_answer_cites_the_page_that_says_it(mesh: RunningMesh, handbook: dict[str, Any]) -> None:
    answer = ask(mesh.http, QUESTION)
    assert "26 days" in answer["answer"]
    assert answer["confidence"] in ("verified", "grounded")
    cited = answer["citations"][0]
    assert cited["document_id"] == handbook["id"]
    assert cited["page"] == 2
    assert "26 days" in cited["quote"]
    assert cited["supported"] is True
    assert answer["degraded"] == []
    assert answer["usage"]["input_tokens"] > 0
    assert {"search", "total"} <= answer["timings_ms"].keys()


async def test_an_internal_client_gets_the_same_answer_through_its_stub(
    mesh: RunningMesh, handbook: dict[str, Any]
) -> None:
    async with citemesh.connect(mesh.url, mesh.api_key) as client:
        events = [event async for event in client.ask(QUESTION)]
        found = await client.retrieval.Search(SearchRequest(query=QUESTION), timeout=10)
    assert found.hits[0].chunk.document_id == handbook["id"]
    assert events[0].WhichOneof("event") == "sources"
    done = events[-1].done
    assert "26 days" in done.answer
    assert done.citations[0].location.page == 2
    assert done.confidence in (CONFIDENCE_VERIFIED, CONFIDENCE_GROUNDED)
    streamed = "".join(event.delta.text for event in events)
    assert streamed.strip() == done.answer.strip()


def test_a_streamed_answer_arrives_in_the_order_the_contract_names(
    mesh: RunningMesh, handbook: dict[str, Any]
) -> None:
    body = {"question": QUESTION, "stream": True, "bypass_cache": True}
    names, text = [], ""
    with mesh.http.stream("POST", "/v1/answers", json=body) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        for name, data in server_sent_events(reply.iter_lines()):
            names.append(name)
            text += data.get("text", "") if name == "delta" else ""
    assert names[0] == "sources"
    assert names[-1] == "done"
    assert "delta" in names
    assert "citation" in names
    assert "26 days" in text


def server_sent_events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and data of a stream's events."""
    name = ""
    for line in lines:
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            yield name, json.loads(line[5:])


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("What is the vacation policy?", ""),
        ("How many PTO days do employees get?", "26 days"),
    ],
)
def test_a_topic_and_another_name_for_it_are_answered_from_the_policy(
    mesh: RunningMesh, handbook: dict[str, Any], question: str, words: str
) -> None:
    answer = ask(mesh.http, question)
    assert answer["confidence"] in ("verified", "grounded")
    assert words in answer["answer"]
    # Page 2 is the chapter on time off.
    cited = {(cited["document_id"], cited["page"]) for cited in answer["citations"]}
    assert cited == {(handbook["id"], 2)}


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("What is the melting point of iron?", "I could not find this in the documents."),
        (
            "Wer gewann 1998 die Weltmeisterschaft?",
            "Das habe ich in den Dokumenten nicht gefunden.",
        ),
    ],
)
def test_a_question_about_something_else_is_not_known_in_its_own_language(
    mesh: RunningMesh, handbook: dict[str, Any], question: str, sentence: str
) -> None:
    answer = ask(mesh.http, question)
    assert (answer["confidence"], answer["answer"]) == ("ungrounded", sentence)
    assert answer["citations"] == []


def test_what_the_documents_do_not_say_is_not_answered(
    mesh: RunningMesh, handbook: dict[str, Any]
) -> None:
    answer = ask(mesh.http, "Who won the football world cup in 1998?")
    assert answer["confidence"] == "ungrounded"
    assert answer["citations"] == []


def test_the_same_question_again_comes_from_the_cache_until_a_document_is_added(
    mesh: RunningMesh, handbook: dict[str, Any], tmp_path: Path
) -> None:
    question = "How long is the probation period at Fenwick Instruments?"
    first = ask(mesh.http, question)
    assert "four months" in first["answer"]
    again = ask(mesh.http, question)
    assert again["cache"] == "exact"
    assert again["answer"] == first["answer"]
    (tmp_path / "new.txt").write_text("A new document about the parking lot in Ghent.")
    ingest(mesh.http, tmp_path / "new.txt")
    assert ask(mesh.http, question)["cache"] == "none"


def test_one_trace_holds_the_spans_of_every_service_a_question_passed(
    mesh: RunningMesh, handbook: dict[str, Any]
) -> None:
    answer = ask(mesh.http, QUESTION, bypass_cache=True)
    trace_id = answer["trace_id"]
    expected = {
        f"citemesh-{name}"
        for name in ("gateway", "generation", "guardrail", "retrieval", "embedding", "rerank")
    }

    def services() -> set[str]:
        return {span.service for span in mesh.spans() if span.trace_id == trace_id}

    wait_until(lambda: expected <= services(), 60, f"one trace with {expected}")

    def orphans() -> list[str]:
        mine = [span for span in mesh.spans() if span.trace_id == trace_id]
        ids = {span.span_id for span in mine}
        return [span.name for span in mine if span.parent_id and span.parent_id not in ids]

    # The spans around those that are there may still be on their way.
    wait_until(lambda: not orphans(), 60, "every span has its parent")
