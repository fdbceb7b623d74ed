"""Today's gateway in front of services of the last release, while those are replaced."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from meshkit.database.pool import Database
from tests.contract.gateway.conftest import (
    GENERATION,
    INGESTION,
    RETRIEVAL,
    Gateway,
    Services,
    run_gateway,
)
from tests.released import Release

ANSWER = "It is 42 [1]."


class Servicer:
    """Serves what its release had; a client of today asks it for more."""

    def __init__(self, release: Release) -> None:
        self.make = release.message
        self.searched: list[Any] = []
        self.uploaded = b""

    async def Search(self, request: Any, _: Any) -> Any:
        self.searched.append(request)
        chunk = {"chunk_id": "doc_1.1.0", "document_id": "doc_1", "text": "It is 42."}
        return self.make("retrieval.v1.SearchResponse", hits=[{"chunk": chunk, "score": 0.5}])

    async def Answer(self, request: Any, _: Any) -> AsyncIterator[Any]:
        for event in ({"delta": {"text": ANSWER}}, {"done": {"answer_id": "a", "answer": ANSWER}}):
            yield self.make("generation.v1.AnswerResponse", event=event)

    async def UploadDocument(self, requests: Any, _: Any) -> Any:
        async for request in requests:
            self.uploaded += request.data
        return self.make(
            "ingestion.v1.UploadDocumentResponse", document={"id": "doc_1", "state": 1}
        )

    async def GetDocument(self, request: Any, _: Any) -> Any:
        found = {"id": request.document_id, "state": 3, "title": "Manual"}
        return self.make("ingestion.v1.GetDocumentResponse", document=found)

    async def WatchDocument(self, request: Any, _: Any) -> AsyncIterator[Any]:
        for state in (2, 3):
            found = {"id": request.document_id, "state": state}
            yield self.make("ingestion.v1.WatchDocumentResponse", document=found)


@pytest.fixture
async def servicer() -> AsyncIterator[tuple[Servicer, str]]:
    release = Release()
    servicer = Servicer(release)
    server = grpc.aio.server()
    names = (RETRIEVAL, GENERATION, INGESTION)
    server.add_generic_rpc_handlers([release.handlers(name, servicer) for name in names])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
async def gateway(
    database: Database, servicer: tuple[Servicer, str], keyring: Path
) -> AsyncIterator[Gateway]:
    async with run_gateway(database, (Services(), servicer[1]), keyring) as running:
        yield running


async def test_every_way_of_a_caller_goes_through_services_of_the_last_release(
    gateway: Gateway, servicer: tuple[Servicer, str]
) -> None:
    async with gateway.client(await gateway.key("read", "write")) as client:
        found = (await client.post("/v1/search", json={"query": "What is it?"})).json()
        assert [hit["text"] for hit in found["hits"]] == ["It is 42."]
        assert servicer[0].searched[0].query == "What is it?"
        answer = (await client.post("/v1/answers", json={"question": "What is it?"})).json()
        assert answer["answer"] == ANSWER
        streamed = await client.post(
            "/v1/answers", json={"question": "What is it?", "stream": True}
        )
        assert streamed.text.count("event: ") == 2
        uploaded = await client.post("/v1/documents", files={"file": ("a.txt", b"It is 42.")})
        assert (uploaded.status_code, uploaded.json()["id"]) == (202, "doc_1")
        assert servicer[0].uploaded == b"It is 42."
        assert (await client.get("/v1/documents/doc_1")).json()["state"] == "ready"
        events = await client.get("/v1/documents/doc_1/events")
        assert events.text.count("data: ") == 2


async def test_what_only_a_newer_service_can_do_is_refused_for_a_while(gateway: Gateway) -> None:
    async with gateway.client(await gateway.key("read")) as client:
        reply = await client.get("/v1/documents/doc_1/chunks")
    assert (reply.status_code, reply.json()["reason"]) == (503, "SERVICE_OUTDATED")
    assert int(reply.headers["Retry-After"]) >= 1
