"""The last release and today's code in one mesh, as they are while one replaces the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.unknown_fields import UnknownFieldSet

from citemesh.retrieval import v1 as retrieval_v1
from loadtest.chaos_ingest.victims import Victims
from meshkit.channel import CONTEXT_HEADER, MeshChannel
from meshkit.components import BY_NAME, COMPONENTS, OPERATIONS
from meshkit.context import acting_as
from meshkit.errors import MeshError
from meshkit.identity import Signer
from meshkit.ids import new_id
from meshkit.supervisor.layout import DataDirectory
from tests.mesh.conftest import RunningMesh, start_mesh, stop_process
from tests.mesh.documents import ingest
from tests.mesh.released_line import TOMORROW, ReleasedLine
from tests.released import Release, Stub

pytestmark = pytest.mark.mesh

QUESTION = "Which lamp hangs above the ferry landing of Osterby?"
TEXT = "# Ferry\n\nA copper lamp hangs above the ferry landing of Osterby. It is lit at dusk.\n"
PLACE = "Osterby"


@pytest.fixture(scope="module")
def release() -> Release:
    return Release()


class Caller:
    """A client of the last release: its stubs, today's mesh."""

    def __init__(self, release: Release, addresses: dict[str, str], token: str) -> None:
        self.release = release
        self._addresses = addresses
        self._headers = [(CONTEXT_HEADER, token)]
        self._channels: list[grpc.aio.Channel] = []

    def __getattr__(self, service: str) -> Any:
        channel = grpc.aio.insecure_channel(
            self._addresses[service], options=[("grpc.enable_http_proxy", 0)]
        )
        self._channels.append(channel)
        stub = self.release.stub(channel, BY_NAME[service].grpc_service)
        return _With(stub, self._headers)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


class _With:
    """A stub whose calls carry the signed context."""

    def __init__(self, stub: Stub, headers: list[tuple[str, str]]) -> None:
        self._stub = stub
        self._headers = headers

    def __getattr__(self, name: str) -> Any:
        return partial(getattr(self._stub, name), metadata=self._headers, timeout=30)


@asynccontextmanager
async def caller(release: Release, mesh: RunningMesh) -> AsyncIterator[Caller]:
    given = mesh.http.post("/v1/token").raise_for_status().json()
    found = Caller(release, given["services"], given["token"])
    try:
        yield found
    finally:
        await found.close()


async def upload(client: Caller, text: str) -> Any:
    """Uploads as the gateway of the last release did."""
    message = partial(client.release.message, "ingestion.v1.UploadDocumentRequest")
    start = client.release.message("ingestion.v1.UploadStart", request_id=new_id("req"))
    start.metadata.file_name = "ferry.md"

    async def parts() -> AsyncIterator[Any]:
        yield message(start=start)
        yield message(data=text.encode())
        yield message(end={})

    return (await client.ingestion.UploadDocument(parts())).document


async def test_a_client_of_the_last_release_does_its_work_on_todays_mesh(
    mesh: RunningMesh, release: Release
) -> None:
    async with caller(release, mesh) as client:
        document = await upload(client, TEXT)
        watched = client.release.message(
            "ingestion.v1.WatchDocumentRequest", document_id=document.id
        )
        states = [m.document.state async for m in client.ingestion.WatchDocument(watched)]
        assert states[-1] == 3, "READY"
        asked = release.message("retrieval.v1.SearchRequest", query=QUESTION)
        found = await client.retrieval.Search(asked)
        assert found.hits[0].chunk.document_id == document.id
        question = release.message("generation.v1.AnswerRequest", question=QUESTION)
        events = [m.event async for m in client.generation.Answer(question)]
        assert events[0].WhichOneof("event") == "sources"
        done = events[-1].done
        assert "copper lamp" in done.answer
        assert [cited.document_id for cited in done.citations] == [document.id]
        gone = release.message(
            "ingestion.v1.DeleteDocumentRequest", document_id=document.id, request_id=new_id("req")
        )
        await client.ingestion.DeleteDocument(gone)
        assert document.id not in [
            hit.chunk.document_id for hit in (await client.retrieval.Search(asked)).hits
        ]


async def test_what_a_client_of_the_last_release_does_not_know_survives_in_its_hands(
    mesh: RunningMesh, release: Release
) -> None:
    async with caller(release, mesh) as client:
        found = await client.retrieval.Search(
            release.message("retrieval.v1.SearchRequest", query=QUESTION)
        )
    assert "started_ms" not in found.DESCRIPTOR.fields_by_name, "or it would not be unknown"
    assert len(UnknownFieldSet(found)) > 0  # type: ignore[arg-type]
    passed_on = retrieval_v1.SearchResponse.FromString(found.SerializeToString())
    assert "total" in passed_on.timings_ms
    assert passed_on.started_ms


async def test_every_rpc_of_the_last_release_is_still_served(
    mesh: RunningMesh, release: Release
) -> None:
    """An empty request is wrong or does nothing: either is an answer of the RPC itself."""
    known = {component.grpc_service: component for component in COMPONENTS}
    signer = Signer.load(mesh.data.identity / "ingestion.key")
    context = signer.sign_background(new_id("prj"), [], new_id("req"))
    missing = []
    for path, method in release.methods.items():
        component = known[path.split("/")[1]]
        channel = MeshChannel(mesh.child(component.name).address, component.grpc_service)
        call = channel.stream_stream(path, None, None)
        with acting_as(context):
            stream = call(timeout=20)
            try:
                await stream.write(b"")
                await stream.done_writing()
                await stream.read()
            except MeshError as error:
                if error.reason == "SERVICE_OUTDATED":
                    missing.append(method.full_name)
            finally:
                stream.cancel()
                await channel.close()
    assert missing == []


DONE_WITHOUT = {"/citemesh.retrieval.v1.RetrievalService/GetCorpusState"}
"""Without it no answer is served again."""


@pytest.mark.slow
async def test_every_hop_may_have_the_last_release_at_its_other_end(
    scratch: Path, release: Release, tmp_path: Path
) -> None:
    """Today's processes, between any two of which nothing passes that came since."""
    directory = scratch / "releases"
    directory.mkdir()
    directory.chmod(0o711)
    victims = Victims(DataDirectory.at(directory / "data"))
    lines = {
        component.name: ReleasedLine(release, partial(victims.port, component.name))
        for component in COMPONENTS
        if component.grpc_service
    }
    for line in lines.values():
        await line.open()
    addresses = {
        f"CITEMESH_{name.upper()}_ADDRESS": f"127.0.0.1:{line.port}" for name, line in lines.items()
    }
    (tmp_path / "ferry.md").write_text(TEXT)
    mesh = await asyncio.to_thread(partial(start_mesh, directory, **addresses))
    try:
        await asyncio.to_thread(_everything_a_caller_does, mesh.http, tmp_path / "ferry.md")
    finally:
        mesh.http.close()
        await asyncio.to_thread(stop_process, mesh.process)
        for line in lines.values():
            await line.close()
    for component in COMPONENTS:
        used = (
            [method for method in lines[component.name].carried if component.grpc_service in method]
            if component.grpc_service
            else ["itself"]
        )
        assert used, f"nobody called {component.name} through its line"
    refused = {method for line in lines.values() for method in line.refused}
    # What it asks for beside its work, and does without.
    assert {m for m in refused if m.split("/")[1] != OPERATIONS} <= DONE_WITHOUT


def _everything_a_caller_does(http: httpx.Client, path: Path) -> None:
    document = ingest(http, path)
    found = http.post("/v1/search", json={"query": QUESTION}).json()
    assert found["degraded"] == []
    assert found["hits"][0]["document_id"] == document["id"]
    answer = http.post("/v1/answers", json={"question": QUESTION}).json()
    assert "copper lamp" in answer["answer"], answer
    assert answer["degraded"] == []
    assert [cited["document_id"] for cited in answer["citations"]] == [document["id"]]
    assert answer["confidence"] in ("verified", "grounded")
    with http.stream(
        "POST", "/v1/answers", json={"question": QUESTION, "stream": True, "bypass_cache": True}
    ) as reply:
        names = [line[7:] for line in reply.iter_lines() if line.startswith("event: ")]
    assert names[0] == "sources"
    assert names[-1] == "done"
    rated = {"answer_id": answer["answer_id"], "rating": 1}
    assert http.post("/v1/feedback", json=rated).status_code < 300
    assert http.get(f"/v1/documents/{document['id']}/chunks").json()["chunks"]
    assert http.get("/readyz").json()["missing"] == []
    assert http.get("/v1/documents").json()["documents"][0]["id"] == document["id"]
    assert http.delete(f"/v1/documents/{document['id']}").status_code < 300
    assert http.post("/v1/search", json={"query": QUESTION}).json()["hits"] == []


def test_a_message_that_passed_a_line_lost_what_is_new_and_has_something_newer(
    release: Release,
) -> None:
    path = "/citemesh.retrieval.v1.RetrievalService/Search"
    sent = retrieval_v1.SearchRequest(query="lamp", context_tokens=512)
    got = release.understood(path, sent.SerializeToString(), request=True) + TOMORROW
    arrived = retrieval_v1.SearchRequest.FromString(got)
    assert (arrived.query, arrived.context_tokens) == ("lamp", 0)
    assert [field.data for field in UnknownFieldSet(arrived)] == [b"tomorrow"]  # type: ignore[arg-type]
