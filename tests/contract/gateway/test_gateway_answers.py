"""Searches, answers and events: what comes out has the shape that was promised."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from citemesh.generation import v1 as generation_v1
from citemesh.ingestion import v1 as ingestion_v1
from citemesh.retrieval import v1 as retrieval_v1
from citemesh.usage import v1 as usage_v1
from meshkit.errors import BudgetExhausted, InvalidInput, NotFound, Unavailable

Event = generation_v1.AnswerEvent
LOCATION = retrieval_v1.Location(
    page=3, page_end=4, headings=["Part", "Section"], section="Leave!A2:D5", start=10, end=19
)
CITATION = generation_v1.Citation(
    marker="1",
    chunk_id="doc_1.1.0",
    document_id="doc_1",
    title="Manual",
    location=LOCATION,
    quote="It is 42.",
    supported=True,
)
DONE = generation_v1.DoneEvent(
    answer_id="ans_1",
    answer="It is 42 [1].",
    citations=[CITATION],
    confidence=generation_v1.CONFIDENCE_GROUNDED,
    model="extractive",
    provider="local",
    usage=[
        usage_v1.Usage(stage="embed", input_tokens=5),
        usage_v1.Usage(stage="generate", input_tokens=100, output_tokens=7),
    ],
    cost_micro_usd=1500,
    cache=generation_v1.CACHE_STATUS_NONE,
    degraded=["rerank"],
    timings_ms={"total": 12.5, "search": 8.0},
    started_ms={"search": 2.5},
    trace_id="ab" * 16,
)
EVENTS = [
    Event(
        sources=generation_v1.SourcesEvent(
            sources=[generation_v1.Source(marker="1", chunk_id="doc_1.1.0", location=LOCATION)]
        )
    ),
    Event(delta=generation_v1.DeltaEvent(text="It is\n\n42")),
    Event(
        provider_switched=generation_v1.ProviderSwitchedEvent(
            from_provider="gemini", to_provider="local", reason="PROVIDER_OVERLOADED"
        )
    ),
    Event(citation=generation_v1.CitationEvent(citation=CITATION)),
    Event(retract=generation_v1.RetractEvent(start=1, end=2, reason="ungrounded")),
    Event(done=DONE),
]


def answering(*events: Any) -> Any:
    async def stream(_: Any) -> AsyncIterator[Any]:
        for event in events:
            if isinstance(event, Exception):
                raise event
            yield generation_v1.AnswerResponse(event=event)

    return stream


def parse(text: str) -> list[tuple[str, Any]]:
    """The events of a stream, comments left out."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if line[:1] not in ("", ":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


async def test_a_search_returns_hits_with_their_signals(gateway: Any) -> None:
    async def reply(_: Any) -> Any:
        chunk = retrieval_v1.StoredChunk(
            chunk_id="doc_1.1.0",
            document_id="doc_1",
            title="Manual",
            text="It is 42.",
            location=LOCATION,
        )
        signals = retrieval_v1.Signals(dense_rank=1, dense_similarity=0.5, fused_rank=1)
        return retrieval_v1.SearchResponse(
            hits=[retrieval_v1.Hit(chunk=chunk, score=0.25, signals=signals)],
            degraded=["rerank"],
            timings_ms={"total": 4.0},
            corpus_epoch=7,
        )

    gateway.services.replies["Search"] = reply
    asked = {
        "query": " what? ",
        "top_k": 3,
        "mode": "dense",
        "fusion": "min_max",
        "rerank": False,
        "filter": {"labels": {"year": "2024"}, "document_ids": ["doc_1"]},
    }
    async with gateway.client(await gateway.key("read")) as client:
        body = (await client.post("/v1/search", json=asked)).json()
    assert body["hits"] == [
        {
            "chunk_id": "doc_1.1.0",
            "document_id": "doc_1",
            "title": "Manual",
            "page": 3,
            "page_end": 4,
            "heading": "Part > Section",
            "section": "Leave!A2:D5",
            "text": "It is 42.",
            "score": 0.25,
            "signals": {
                "dense_rank": 1,
                "dense_similarity": 0.5,
                "lexical_rank": 0,
                "lexical_score": 0.0,
                "fused_rank": 1,
                "rerank_score": None,
            },
        }
    ]
    assert body["degraded"] == ["rerank"]
    assert body["timings_ms"] == {"total": 4.0}
    sent = gateway.services.requests[-1]
    assert sent.query == "what?"
    assert sent.top_k == 3
    assert sent.mode == retrieval_v1.SEARCH_MODE_DENSE
    assert sent.fusion == retrieval_v1.FUSION_METHOD_MIN_MAX
    assert sent.rerank == retrieval_v1.RERANK_MODE_OFF
    assert dict(sent.filter.labels) == {"year": "2024"}


def _use(stage: str, read: int, written: int) -> dict[str, Any]:
    return {
        "stage": stage,
        "provider": "",
        "model": "",
        "input_tokens": read,
        "output_tokens": written,
        "cost_usd": 0.0,
        "estimated": False,
    }


async def test_an_answer_comes_whole(gateway: Any) -> None:
    gateway.services.streams["Answer"] = answering(*EVENTS)
    async with gateway.client(await gateway.key("read")) as client:
        body = (await client.post("/v1/answers", json={"question": "how much?"})).json()
    assert body == {
        "answer_id": "ans_1",
        "conversation_id": "",
        "answer": "It is 42 [1].",
        "citations": [
            {
                "marker": "1",
                "chunk_id": "doc_1.1.0",
                "document_id": "doc_1",
                "title": "Manual",
                "page": 3,
                "section": "Leave!A2:D5",
                "start": 10,
                "end": 19,
                "quote": "It is 42.",
                "supported": True,
            }
        ],
        "confidence": "grounded",
        "model": "extractive",
        "provider": "local",
        "usage": {
            "input_tokens": 105,
            "output_tokens": 7,
            "models": [_use("embed", 5, 0), _use("generate", 100, 7)],
        },
        "cost_usd": 0.0015,
        "cache": "none",
        "degraded": ["rerank"],
        "timings_ms": {"total": 12.5, "search": 8.0},
        "started_ms": {"search": 2.5},
        "trace_id": "ab" * 16,
    }


async def test_an_answer_streams_event_by_event(gateway: Any) -> None:
    gateway.services.streams["Answer"] = answering(*EVENTS)
    key = await gateway.key("read")
    async with gateway.client(key) as client:
        response = await client.post("/v1/answers", json={"question": "a?", "stream": True})
        whole = (await client.post("/v1/answers", json={"question": "a?"})).json()
    assert response.headers["content-type"].startswith("text/event-stream")
    events = parse(response.text)
    assert [name for name, _ in events] == [
        "sources",
        "delta",
        "provider_switched",
        "citation",
        "retract",
        "done",
    ]
    assert events[1][1] == {"text": "It is\n\n42"}
    assert events[-1][1] == whole


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_before_the_first_event_has_a_status(gateway: Any, stream: bool) -> None:
    gateway.services.streams["Answer"] = answering(
        InvalidInput("INPUT_BLOCKED", "The question was blocked.")
    )
    async with gateway.client(await gateway.key("read")) as client:
        response = await client.post("/v1/answers", json={"question": "a?", "stream": stream})
    assert response.status_code == 400
    assert response.json()["reason"] == "INPUT_BLOCKED"


async def test_an_error_after_the_first_event_is_an_event(gateway: Any) -> None:
    gateway.services.streams["Answer"] = answering(EVENTS[0], Unavailable("GONE", "It is gone."))
    async with gateway.client(await gateway.key("read")) as client:
        response = await client.post("/v1/answers", json={"question": "a?", "stream": True})
    name, data = parse(response.text)[-1]
    assert name == "error"
    assert data == {
        "reason": "GONE",
        "detail": "It is gone.",
        "request_id": response.headers["x-request-id"],
    }


async def test_an_error_event_becomes_a_status_for_who_did_not_stream(gateway: Any) -> None:
    failed = generation_v1.ErrorEvent(reason="BUDGET_EXHAUSTED", detail="No money left.")
    gateway.services.streams["Answer"] = answering(EVENTS[0], Event(error=failed))
    async with gateway.client(await gateway.key("read")) as client:
        response = await client.post("/v1/answers", json={"question": "a?"})
    assert response.status_code == BudgetExhausted.http_status
    assert response.json()["reason"] == "BUDGET_EXHAUSTED"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_cancels_the_answer(gateway: Any, stream: bool) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def endless(_: Any) -> AsyncIterator[Any]:
        try:
            yield generation_v1.AnswerResponse(event=EVENTS[0])
            begun.set()
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    gateway.services.streams["Answer"] = endless
    async with gateway.client(await gateway.key("read")) as client:
        asking = asyncio.create_task(
            client.post("/v1/answers", json={"question": "a?", "stream": stream})
        )
        async with asyncio.timeout(10):
            await begun.wait()
            asking.cancel()
            await cancelled.wait()


async def test_a_silent_stream_is_kept_open(start_gateway: Any) -> None:
    release = asyncio.Event()

    async def slow(_: Any) -> AsyncIterator[Any]:
        yield generation_v1.AnswerResponse(event=EVENTS[0])
        await release.wait()
        yield generation_v1.AnswerResponse(event=EVENTS[-1])

    async with start_gateway(keep_alive_seconds=0.05) as gateway:
        gateway.services.streams["Answer"] = slow
        async with (
            gateway.client(await gateway.key("read")) as client,
            client.stream("POST", "/v1/answers", json={"question": "a", "stream": True}) as stream,
        ):
            text = ""
            async with asyncio.timeout(10):
                async for piece in stream.aiter_text():
                    text += piece
                    if text.count(": keep-alive") >= 2:
                        release.set()
    assert [name for name, _ in parse(text)] == ["sources", "done"]


async def test_feedback_is_recorded(gateway: Any) -> None:
    async with gateway.client(await gateway.key("read")) as client:
        response = await client.post(
            "/v1/feedback", json={"answer_id": "ans_1", "rating": -1, "comment": "wrong page"}
        )
        refused = await client.post("/v1/feedback", json={"answer_id": "ans_1", "rating": 5})
    assert response.status_code == 204
    sent = gateway.services.requests[-1]
    assert (sent.answer_id, sent.rating, sent.comment) == ("ans_1", -1, "wrong page")
    assert refused.json()["reason"] == "FIELD_INVALID"


# ---- documents


def document(state: Any, **more: Any) -> Any:
    return ingestion_v1.Document(id="doc_1", version=2, state=state, title="Manual", **more)


async def test_a_document_shows_state_progress_and_error(gateway: Any) -> None:
    async def reply(_: Any) -> Any:
        error = ingestion_v1.DocumentError(reason="FILE_ENCRYPTED", detail="It is encrypted.")
        return ingestion_v1.GetDocumentResponse(
            document=document(
                ingestion_v1.DOCUMENT_STATE_FAILED,
                error=error,
                progress=ingestion_v1.Progress(done=1, total=3),
            )
        )

    gateway.services.replies["GetDocument"] = reply
    async with gateway.client(await gateway.key("read")) as client:
        body = (await client.get("/v1/documents/doc_1")).json()
    assert body["state"] == "failed"
    assert body["progress"] == {"done": 1, "total": 3}
    assert body["error"] == {"reason": "FILE_ENCRYPTED", "detail": "It is encrypted."}


async def test_documents_are_listed_filtered_and_paged(gateway: Any) -> None:
    async def reply(_: Any) -> Any:
        return ingestion_v1.ListDocumentsResponse(
            documents=[document(ingestion_v1.DOCUMENT_STATE_READY)], next_page_token="next"
        )

    gateway.services.replies["ListDocuments"] = reply
    query = {"page_size": 5, "page_token": "t", "state": "ready", "label": ["a=b", "c=d=e"]}
    async with gateway.client(await gateway.key("read")) as client:
        body = (await client.get("/v1/documents", params=query)).json()
        wrong = await client.get("/v1/documents", params={"state": "lost"})
    assert body["next_page_token"] == "next"
    assert body["documents"][0]["state"] == "ready"
    sent = gateway.services.requests[0]
    assert (sent.page_size, sent.page_token) == (5, "t")
    assert sent.state == ingestion_v1.DOCUMENT_STATE_READY
    assert dict(sent.labels) == {"a": "b", "c": "d=e"}
    assert (wrong.status_code, wrong.json()["reason"]) == (400, "FIELD_INVALID")


async def test_a_document_is_followed_to_its_end(gateway: Any) -> None:
    async def states(_: Any) -> AsyncIterator[Any]:
        for state in (
            ingestion_v1.DOCUMENT_STATE_QUEUED,
            ingestion_v1.DOCUMENT_STATE_PROCESSING,
            ingestion_v1.DOCUMENT_STATE_READY,
        ):
            yield ingestion_v1.WatchDocumentResponse(document=document(state))

    gateway.services.streams["WatchDocument"] = states
    async with gateway.client(await gateway.key("read")) as client:
        response = await client.get("/v1/documents/doc_1/events")
    events = parse(response.text)
    assert [(name, data["state"]) for name, data in events] == [
        ("state", "queued"),
        ("state", "processing"),
        ("state", "ready"),
    ]


async def test_a_document_is_followed_on_when_the_stream_behind_breaks_off(gateway: Any) -> None:
    queued, ready = ingestion_v1.DOCUMENT_STATE_QUEUED, ingestion_v1.DOCUMENT_STATE_READY
    streams = [[queued, None], [queued, None], [ready]]

    async def breaking(_: Any) -> AsyncIterator[Any]:
        for state in streams.pop(0):
            if state is None:
                raise Unavailable("SERVICE_DRAINING", "This instance stops; watch again.")
            yield ingestion_v1.WatchDocumentResponse(document=document(state))

    gateway.services.streams["WatchDocument"] = breaking
    async with gateway.client(await gateway.key("read")) as client:
        whole = parse((await client.get("/v1/documents/doc_1/events")).text)
        streams += [[queued, None], [None]]
        broken = parse((await client.get("/v1/documents/doc_1/events")).text)
    assert [data["state"] for _, data in whole] == ["queued", "queued", "ready"]
    assert [name for name, _ in broken] == ["state", "error"]
    assert broken[1][1]["reason"] == "SERVICE_DRAINING"


async def test_following_a_document_that_is_not_there_is_404(gateway: Any) -> None:
    async def missing(_: Any) -> AsyncIterator[Any]:
        raise NotFound("DOCUMENT_NOT_FOUND", "There is no such document.")
        yield

    gateway.services.streams["WatchDocument"] = missing
    async with gateway.client(await gateway.key("read")) as client:
        response = await client.get("/v1/documents/doc_9/events")
    assert (response.status_code, response.json()["reason"]) == (404, "DOCUMENT_NOT_FOUND")


async def test_followers_are_let_go_when_the_gateway_stops(start_gateway: Any) -> None:
    async def waiting(_: Any) -> AsyncIterator[Any]:
        yield ingestion_v1.WatchDocumentResponse(
            document=document(ingestion_v1.DOCUMENT_STATE_QUEUED)
        )
        await asyncio.Event().wait()

    async with start_gateway() as gateway:
        gateway.services.streams["WatchDocument"] = waiting
        async with (
            gateway.client(await gateway.key("read")) as client,
            client.stream("GET", "/v1/documents/doc_1/events") as stream,
            asyncio.timeout(10),
        ):
            async for _ in stream.aiter_text():
                gateway.mesh.draining.set()


async def test_deleting_and_reprocessing_name_the_request(gateway: Any) -> None:
    async with gateway.client(await gateway.key("write")) as client:
        key = {"Idempotency-Key": "delete-me-1"}
        assert (await client.delete("/v1/documents/doc_1", headers=key)).status_code == 204
        assert (await client.post("/v1/documents/doc_1:reprocess")).status_code == 202
    deleted, reprocessed = gateway.services.requests
    assert (deleted.document_id, deleted.request_id) == ("doc_1", "delete-me-1")
    assert reprocessed.document_id == "doc_1"
    assert len(reprocessed.request_id) >= 8


async def test_chunks_of_a_document_are_paged(gateway: Any) -> None:
    async def reply(_: Any) -> Any:
        chunk = retrieval_v1.StoredChunk(chunk_id="doc_1.1.0", text="words", location=LOCATION)
        return retrieval_v1.ReadChunksResponse(chunks=[chunk], next_page_token="more")

    gateway.services.replies["ReadChunks"] = reply
    async with gateway.client(await gateway.key("read")) as client:
        body = (await client.get("/v1/documents/doc_1/chunks", params={"page_size": 1})).json()
    assert body["next_page_token"] == "more"
    assert body["chunks"][0]["headings"] == ["Part", "Section"]
    assert gateway.services.requests[-1].document_id == "doc_1"
