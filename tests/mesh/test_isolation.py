"""Two projects and two groups with the same words: nothing crosses, whatever is tried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from citemesh.ingestion import v1 as ingestion_v1
from citemesh.retrieval import v1 as retrieval_v1
from meshkit.channel import CONTEXT_HEADER, MeshChannel
from meshkit.context import RequestContext, acting_as
from meshkit.errors import MeshError, PermissionDenied, Unauthenticated
from meshkit.identity import Signer, create_keyring
from tests.mesh.conftest import RunningMesh
from tests.mesh.documents import ingest

WORDS = "The secret recipe of the harbour canteen calls for nine spoons of turmeric"
QUESTION = "How many spoons of turmeric does the secret recipe of the harbour canteen call for?"


@dataclass(frozen=True)
class Tenant:
    """A project with a client of its own and one document."""

    project_id: str
    http: httpx.Client
    document: dict[str, Any]


def make_key(mesh: RunningMesh, project_id: str, *principals: str) -> httpx.Client:
    body = {
        "name": "tenant",
        "project_id": project_id,
        "scopes": ["read", "write"],
        "principals": list(principals),
    }
    key = mesh.http.post("/v1/keys", json=body)
    assert key.status_code == 201, key.text
    headers = {"Authorization": f"Bearer {key.json()['key']}"}
    return httpx.Client(base_url=mesh.url, headers=headers, timeout=60, trust_env=False)


def make_tenant(mesh: RunningMesh, name: str, number: str, folder: Path) -> Tenant:
    project = mesh.http.post("/v1/projects", json={"name": f"isolation {name}"})
    assert project.status_code == 201, project.text
    http = make_key(mesh, project.json()["id"], f"user:{name}")
    path = folder / f"{name}.txt"
    path.write_text(f"{WORDS.replace('nine', number)}, as told to {name}.\n")
    return Tenant(project.json()["id"], http, ingest(http, path))


@pytest.fixture(scope="module")
def tenants(
    mesh: RunningMesh, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Tenant, Tenant]]:
    folder = tmp_path_factory.mktemp("isolation")
    ann = make_tenant(mesh, "ann", "nine", folder)
    bob = make_tenant(mesh, "bob", "four", folder)
    yield ann, bob
    ann.http.close()
    bob.http.close()


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_a_search_sees_its_own_project_only(tenants: tuple[Tenant, Tenant], mode: str) -> None:
    ann, bob = tenants
    for me, other in ((ann, bob), (bob, ann)):
        reply = me.http.post("/v1/search", json={"query": WORDS, "mode": mode, "top_k": 50})
        found = {hit["document_id"] for hit in reply.raise_for_status().json()["hits"]}
        assert found == {me.document["id"]}
        assert other.document["id"] not in reply.text


def test_an_answer_rests_on_its_own_project_only(tenants: tuple[Tenant, Tenant]) -> None:
    ann, bob = tenants
    for me, mine, other in ((ann, "nine", "four"), (bob, "four", "nine")):
        answer = me.http.post("/v1/answers", json={"question": QUESTION}).json()
        assert mine in answer["answer"]
        assert other not in answer["answer"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/documents/{id}"),
        ("GET", "/v1/documents/{id}/chunks"),
        ("GET", "/v1/documents/{id}/events"),
        ("DELETE", "/v1/documents/{id}"),
        ("POST", "/v1/documents/{id}:reprocess"),
    ],
)
def test_the_id_of_a_foreign_document_is_unknown(
    tenants: tuple[Tenant, Tenant], method: str, path: str
) -> None:
    ann, bob = tenants
    reply = bob.http.request(method, path.format(id=ann.document["id"]))
    assert reply.status_code == 404
    assert reply.json()["reason"] == "DOCUMENT_NOT_FOUND"
    mine = ann.http.get(f"/v1/documents/{ann.document['id']}")
    assert mine.json()["state"] == "ready"


def test_a_foreign_document_cannot_be_searched_by_naming_it(
    tenants: tuple[Tenant, Tenant],
) -> None:
    ann, bob = tenants
    body = {"query": WORDS, "filter": {"document_ids": [ann.document["id"]]}}
    assert bob.http.post("/v1/search", json=body).raise_for_status().json()["hits"] == []


def test_a_group_sees_what_is_for_it_and_for_everyone(
    mesh: RunningMesh, tenants: tuple[Tenant, Tenant], tmp_path: Path
) -> None:
    project = tenants[0].project_id
    staff = make_key(mesh, project, "group:staff")
    board = make_key(mesh, project, "group:board")
    (tmp_path / "board.txt").write_text("The merger with Oldenburg closes on the third of May.\n")
    secret = ingest(board, tmp_path / "board.txt", allow=["group:board"])
    for mode in ("hybrid", "dense", "lexical"):
        body = {"query": "merger with Oldenburg", "mode": mode, "top_k": 50}
        seen = staff.post("/v1/search", json=body).raise_for_status().json()["hits"]
        assert secret["id"] not in {hit["document_id"] for hit in seen}
        seen = board.post("/v1/search", json=body).raise_for_status().json()["hits"]
        assert secret["id"] in {hit["document_id"] for hit in seen}
    assert staff.get(f"/v1/documents/{secret['id']}").status_code == 404
    listed = staff.get("/v1/documents").raise_for_status().text
    assert secret["id"] not in listed
    answer = staff.post("/v1/answers", json={"question": "When does the merger close?"})
    assert "May" not in answer.text
    staff.close()
    board.close()


@pytest.fixture
def signer(mesh: RunningMesh) -> Signer:
    """The key that only the gateway should have; tests use it to make contexts by hand."""
    return Signer.load(mesh.data.identity / "gateway.key")


def context_for(signer: Signer, tenant: Tenant, *, seconds: float = 60) -> RequestContext:
    return signer.sign(
        project_id=tenant.project_id,
        principals=["user:x"],
        scopes=["read", "write"],
        subject="test",
        request_id="req_isolation",
        seconds=seconds,
    )


async def search_as(mesh: RunningMesh, context: RequestContext) -> retrieval_v1.SearchResponse:
    service = "citemesh.retrieval.v1.RetrievalService"
    async with MeshChannel(mesh.child("retrieval").address, service) as channel:
        stub = retrieval_v1.RetrievalServiceAsyncStub(channel)
        with acting_as(context):
            return await stub.Search(retrieval_v1.SearchRequest(query=WORDS), timeout=10)


async def test_a_direct_call_is_bound_to_the_project_of_its_context(
    mesh: RunningMesh, tenants: tuple[Tenant, Tenant], signer: Signer
) -> None:
    ann, _ = tenants
    found = await search_as(mesh, context_for(signer, ann))
    assert {hit.chunk.document_id for hit in found.hits} == {ann.document["id"]}


async def test_a_direct_call_with_a_forged_context_is_refused(
    mesh: RunningMesh, tenants: tuple[Tenant, Tenant], tmp_path: Path
) -> None:
    create_keyring(tmp_path, ["gateway"])
    thief = Signer.load(tmp_path / "gateway.key")
    with pytest.raises(Unauthenticated) as caught:
        await search_as(mesh, context_for(thief, tenants[0]))
    assert caught.value.reason == "CONTEXT_INVALID"


async def test_a_direct_call_with_an_expired_context_is_refused(
    mesh: RunningMesh, tenants: tuple[Tenant, Tenant], signer: Signer
) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await search_as(mesh, context_for(signer, tenants[0], seconds=-60))
    assert caught.value.reason == "CONTEXT_EXPIRED"


@pytest.mark.parametrize(
    "name", ["guardrail", "embedding", "embedding_bulk", "rerank", "retrieval", "ingestion"]
)
async def test_no_service_answers_without_a_context(mesh: RunningMesh, name: str) -> None:
    address = mesh.child(name).address
    async with grpc.aio.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        # The method is unknown to most of them: the context is asked for first all the same.
        call = channel.unary_unary("/citemesh.retrieval.v1.RetrievalService/Search")
        if name == "retrieval":
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(retrieval_v1.SearchRequest(query="x").SerializeToString(), timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        else:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"", timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_user_cannot_write_into_the_index_past_ingestion(
    mesh: RunningMesh, tenants: tuple[Tenant, Tenant], signer: Signer
) -> None:
    service = "citemesh.retrieval.v1.RetrievalService"
    request = retrieval_v1.RemoveDocumentRequest(
        document_id=tenants[0].document["id"], lease_epoch=2**40, request_id="attacker-1"
    )
    async with MeshChannel(mesh.child("retrieval").address, service) as channel:
        stub = retrieval_v1.RetrievalServiceAsyncStub(channel)
        with acting_as(context_for(signer, tenants[0])), pytest.raises(PermissionDenied) as caught:
            await stub.RemoveDocument(request, timeout=10)
    assert caught.value.reason == "SCOPE_MISSING"


async def test_a_replayed_mutation_does_nothing(
    mesh: RunningMesh, tenants: tuple[Tenant, Tenant], signer: Signer, tmp_path: Path
) -> None:
    ann, _ = tenants
    (tmp_path / "short.txt").write_text("A note that is about to be deleted, of turmeric.\n")
    note = ingest(ann.http, tmp_path / "short.txt")
    delete = ingestion_v1.DeleteDocumentRequest(document_id=note["id"], request_id="replay-0001")
    service = "citemesh.ingestion.v1.IngestionService"
    async with MeshChannel(mesh.child("ingestion").address, service) as channel:
        stub = ingestion_v1.IngestionServiceAsyncStub(channel)
        with acting_as(context_for(signer, ann)):
            await stub.DeleteDocument(delete, timeout=20)
            again = ingest(ann.http, tmp_path / "short.txt")
            assert again["id"] != note["id"]
            # Whoever recorded the call sends it once more, word for word.
            try:
                await stub.DeleteDocument(delete, timeout=20)
            except MeshError as error:
                assert error.reason == "DOCUMENT_NOT_FOUND"  # noqa: PT017
    assert ann.http.get(f"/v1/documents/{again['id']}").json()["state"] == "ready"


def test_a_replayed_upload_is_the_first_upload(
    tenants: tuple[Tenant, Tenant], tmp_path: Path
) -> None:
    ann, _ = tenants
    files = {"file": ("replay.txt", b"Uploaded once and then sent again by a nervous client.")}
    headers = {"Idempotency-Key": "nervous-client-1"}
    first = ann.http.post("/v1/documents", files=files, headers=headers).json()
    again = ann.http.post("/v1/documents", files=files, headers=headers).json()
    assert (again["id"], again["version"]) == (first["id"], first["version"])


async def test_the_header_name_of_the_context_is_the_one_of_the_public_client() -> None:
    from citemesh import client

    assert client.CONTEXT_HEADER == CONTEXT_HEADER
