"""A gateway with more to do than it can: who is turned away, with which words, and who is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from citemesh.generation import v1 as generation_v1
from citemesh.ingestion import v1 as ingestion_v1


class Held:
    """Answers that begin and do not end before `leave` is set."""

    def __init__(self) -> None:
        self.begun = 0
        self.leave = asyncio.Event()

    async def stream(self, _: Any) -> AsyncIterator[generation_v1.AnswerResponse]:
        self.begun += 1
        sources = generation_v1.AnswerEvent(sources=generation_v1.SourcesEvent())
        yield generation_v1.AnswerResponse(event=sources)
        await self.leave.wait()
        done = generation_v1.AnswerEvent(done=generation_v1.DoneEvent(answer="It is."))
        yield generation_v1.AnswerResponse(event=done)


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def refused(reply: httpx.Response) -> None:
    assert reply.status_code == 503, reply.text
    assert reply.json()["reason"] == "SERVICE_BUSY"
    assert reply.json()["request_id"] == reply.headers["x-request-id"]
    assert 1 <= int(reply.headers["retry-after"]) <= 4


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "as events"])
async def test_uploads_are_turned_away_before_answers_and_answers_before_searches(
    start_gateway: Any, stream: bool
) -> None:
    # Room for 80 units: 72 for nine answers, one more would leave too little for searches.
    async with start_gateway(max_concurrent_rpcs=10, adaptive_limit=False) as gateway:
        held = Held()
        gateway.services.streams["Answer"] = held.stream
        question = {"question": "Why?", "stream": stream}
        async with gateway.client(await gateway.key("read", "write")) as client:

            def ask() -> asyncio.Future[httpx.Response]:
                return asyncio.ensure_future(client.post("/v1/answers", json=question))

            async def upload() -> httpx.Response:
                return await client.post("/v1/documents", files={"file": ("a.txt", b"x")})

            asked = [ask() for _ in range(5)]
            await until(lambda: held.begun == 5)
            assert (await upload()).status_code == 202
            asked += [ask() for _ in range(4)]
            await until(lambda: held.begun == 9)
            refused(await upload())
            refused(await ask())
            assert held.begun == 9
            assert (await client.post("/v1/search", json={"query": "x"})).status_code == 200
            assert (await client.get("/v1/documents")).status_code == 200
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200
            held.leave.set()
            for answer in asked:
                assert (await answer).status_code == 200
            assert (await ask()).status_code == 200
            assert (await upload()).status_code == 202


async def test_an_answer_whose_caller_goes_away_gives_its_place_back(start_gateway: Any) -> None:
    async with start_gateway(max_concurrent_rpcs=1, adaptive_limit=False) as gateway:
        held = Held()
        gateway.services.streams["Answer"] = held.stream
        question = {"question": "Why?", "stream": True}
        async with gateway.client(await gateway.key("read")) as client:
            async with client.stream("POST", "/v1/answers", json=question) as gone:
                assert gone.status_code == 200
            held.leave.set()

            async def served() -> bool:
                return (await client.post("/v1/answers", json=question)).status_code == 200

            async with asyncio.timeout(30):
                while not await served():
                    pass


async def test_somebody_who_follows_a_document_takes_no_place(start_gateway: Any) -> None:
    async with start_gateway(max_concurrent_rpcs=1, adaptive_limit=False) as gateway:
        follow = asyncio.Event()

        async def watching(_: Any) -> AsyncIterator[Any]:
            yield ingestion_v1.WatchDocumentResponse(document=ingestion_v1.Document(id="doc_1"))
            await follow.wait()

        gateway.services.streams["WatchDocument"] = watching
        async with gateway.client(await gateway.key("read")) as client:
            streams = [
                await client.send(
                    client.build_request("GET", "/v1/documents/doc_1/events"), stream=True
                )
                for _ in range(12)
            ]
            assert {stream.status_code for stream in streams} == {200}
            assert (await client.post("/v1/search", json={"query": "x"})).status_code == 200
            follow.set()
            for stream in streams:
                await stream.aclose()
