"""Retrieval as a process: scopes, errors with reasons, and what survives `kill -9`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from citemesh.retrieval import v1
from meshkit.channel import streaming
from meshkit.context import acting_as
from meshkit.errors import (
    Fenced,
    InvalidInput,
    MeshError,
    PermissionDenied,
    Precondition,
    Unauthenticated,
)
from meshkit.project import DEFAULTS, ProjectSettings
from tests.contract.retrieval_room import DIMENSIONS, SPACE, project_id, vector_of
from tests.contract.service_process import DidNotStart, Keys, ServiceProcess, running

NOWHERE = {
    "CITEMESH_EMBEDDING_ADDRESS": "127.0.0.1:1",
    "CITEMESH_EMBEDDING_BULK_ADDRESS": "127.0.0.1:1",
    "CITEMESH_RERANK_ADDRESS": "127.0.0.1:1",
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
async def service(
    postgres: Any, keys: Keys, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServiceProcess]:
    directory = str(tmp_path_factory.mktemp("lexical"))
    async with running(
        "retrieval", postgres, keys, **NOWHERE, CITEMESH_RETRIEVAL_LEXICAL_DIR=directory
    ) as process:
        yield process


@pytest.fixture
def stub(service: ServiceProcess) -> v1.RetrievalServiceAsyncStub:
    return v1.RetrievalServiceAsyncStub(service.channel)


@pytest.fixture
def project() -> str:
    return project_id()


def indexing(texts: list[str], document: str = "doc_1", lease: int = 1) -> v1.IndexChunksRequest:
    return v1.IndexChunksRequest(
        document=v1.DocumentVersion(document_id=document, version=1, lease_epoch=lease),
        space=SPACE,
        chunks=[
            v1.Chunk(
                ordinal=n,
                text=text,
                location=v1.Location(page=3, page_end=4, headings=["A", "B"], start=n, end=n + 1),
                vector=vector_of(text).tolist(),
                token_count=7,
                language="en",
                flags=["rule"] if "flagged" in text else [],
            )
            for n, text in enumerate(texts)
        ],
    )


def activation(count: int, document: str = "doc_1", **more: Any) -> v1.ActivateVersionRequest:
    return v1.ActivateVersionRequest(
        document=v1.DocumentVersion(document_id=document, version=1, lease_epoch=1),
        chunk_count=count,
        title="Handbook",
        media_type="text/plain",
        **more,
    )


async def add(stub: v1.RetrievalServiceAsyncStub, texts: list[str], **more: Any) -> None:
    await stub.IndexChunks(indexing(texts))
    await stub.ActivateVersion(activation(len(texts), **more))


def asking(text: str, **more: Any) -> v1.SearchRequest:
    return v1.SearchRequest(
        query=text,
        vector=vector_of(text).tolist(),
        space=SPACE,
        rerank=v1.RERANK_MODE_OFF,
        **more,
    )


async def rebuilt(
    stub: v1.RetrievalServiceAsyncStub, request_id: str
) -> list[v1.RebuildLexicalIndexResponse]:
    request = v1.RebuildLexicalIndexRequest(request_id=request_id)
    async with streaming(stub.RebuildLexicalIndex(request)) as stream:
        return [message async for message in stream]


async def test_a_document_written_by_a_service_is_found_by_a_user(
    stub: v1.RetrievalServiceAsyncStub, keys: Keys, project: str
) -> None:
    with acting_as(keys.service(project)):
        await add(stub, ["vacation days accrue", "flagged text"], allow=["user:ann"])
    with keys.asking(project):
        found = await stub.Search(asking("vacation days", neighbours=1))
    hit = found.hits[0]
    assert hit.chunk.chunk_id == "doc_1.1.0"
    assert hit.chunk.title == "Handbook"
    assert (hit.chunk.location.page, list(hit.chunk.location.headings)) == (3, ["A", "B"])
    assert hit.signals.dense_rank == hit.signals.lexical_rank == hit.signals.fused_rank == 1
    assert not hit.signals.HasField("rerank_score")
    assert hit.context.startswith("vacation days accrue")
    assert list(found.hits[1].chunk.flags) == ["rule"]
    assert (found.space, found.corpus_epoch, list(found.degraded)) == (SPACE, 1, [])


async def test_neighbours_are_told_apart_from_none_at_all(
    stub: v1.RetrievalServiceAsyncStub, keys: Keys, project: str
) -> None:
    with acting_as(keys.service(project)):
        await add(stub, ["vacation days accrue", "flagged text"], allow=["user:ann"])
    with keys.asking(project):
        wanted = {"top_k": 1, "neighbours": 1}
        found = await stub.Search(asking("vacation days", neighbour_chunks=True, **wanted))
        (beside,) = found.neighbours.chunks
        assert (beside.chunk_id, list(beside.flags)) == ("doc_1.1.1", ["rule"])
        assert not (await stub.Search(asking("vacation days", **wanted))).HasField("neighbours")


async def test_what_a_search_leaves_open_is_its_projects_choice(
    stub: v1.RetrievalServiceAsyncStub, keys: Keys, project: str
) -> None:
    texts = [f"policy {n} about vacation and leave" for n in range(12)]
    with acting_as(keys.service(project)):
        await add(stub, texts)

    async def scores(settings: ProjectSettings, **asked: Any) -> list[float]:
        caller = keys.user(project, "read", settings=settings)
        with acting_as(caller):
            found = await stub.Search(asking("vacation policy 7", **asked))
        return [hit.score for hit in found.hits]

    chosen = ProjectSettings(fusion="min_max")
    plain = await scores(DEFAULTS)
    by_score = await scores(DEFAULTS, fusion=v1.FUSION_METHOD_MIN_MAX)
    assert plain != by_score
    assert await scores(chosen) == by_score
    assert await scores(chosen, fusion=v1.FUSION_METHOD_RRF) == plain
    assert await scores(ProjectSettings(dense_weight=0.0)) != plain
    assert await scores(ProjectSettings(fusion="of a later release")) == plain


async def test_services_that_are_away_are_named_and_the_rest_is_served(
    stub: v1.RetrievalServiceAsyncStub, keys: Keys, project: str
) -> None:
    with acting_as(keys.service(project)):
        await add(stub, ["vacation days accrue"])
    with keys.asking(project):
        found = await stub.Search(v1.SearchRequest(query="vacation"), timeout=5)
    assert sorted(found.degraded) == ["dense", "rerank"]
    assert found.hits[0].chunk.text == "vacation days accrue"


async def test_a_user_cannot_write_purge_or_rebuild(
    stub: v1.RetrievalServiceAsyncStub, keys: Keys, project: str
) -> None:
    removal = v1.RemoveDocumentRequest(document_id="doc_1", lease_epoch=1, request_id="request-1")
    with keys.asking(project, "read", "write"):
        for call in (
            stub.IndexChunks(indexing(["x"])),
            stub.ActivateVersion(activation(1)),
            stub.RemoveDocument(removal),
            stub.PurgeProject(v1.PurgeProjectRequest(project_id=project)),
            stub.ReadChunks(v1.ReadChunksRequest(whole_project=True)),
            stub.ReconcileLexicalIndex(v1.ReconcileLexicalIndexRequest()),
        ):
            with pytest.raises(PermissionDenied) as refused:
                await call
            assert refused.value.reason == "SCOPE_MISSING"
        with pytest.raises(PermissionDenied):
            await rebuilt(stub, "rebuild-1")
    with keys.asking(project, "admin"), pytest.raises(PermissionDenied) as mismatch:
        await stub.PurgeProject(v1.PurgeProjectRequest(project_id="prj_other"))
    assert mismatch.value.reason == "PROJECT_MISMATCH"
    with pytest.raises(Unauthenticated):
        await stub.Search(asking("x"))


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"space": "test/unit@31"}, Precondition, "SPACE_MISMATCH"),
        ({"space": "nonsense"}, InvalidInput, "SPACE_INVALID"),
        ({"vector": [0.0] * DIMENSIONS}, InvalidInput, "VECTOR_INVALID"),
        ({"vector": [float("nan")] * DIMENSIONS}, InvalidInput, "VECTOR_INVALID"),
        ({"vector": []}, InvalidInput, "VECTOR_INVALID"),
        ({"vector": [1.0]}, Precondition, "SPACE_MISMATCH"),
    ],
)
async def test_a_wrong_vector_is_refused_with_a_reason(
    stub: v1.RetrievalServiceAsyncStub,
    keys: Keys,
    project: str,
    change: dict[str, Any],
    error: type[MeshError],
    reason: str,
) -> None:
    request = indexing(["one", "two"])
    if "space" in change:
        request.space = change["space"]
    else:
        request.chunks[1].ClearField("vector")
        request.chunks[1].vector.extend(change["vector"])
    with acting_as(keys.service(project)), pytest.raises(error) as refused:
        await stub.IndexChunks(request)
    assert refused.value.reason == reason


async def test_a_lost_lease_keeps_its_reason_over_the_wire(
    stub: v1.RetrievalServiceAsyncStub, keys: Keys, project: str
) -> None:
    with acting_as(keys.service(project)):
        await stub.IndexChunks(indexing(["x"], lease=3))
        with pytest.raises(Fenced) as refused:
            await stub.IndexChunks(indexing(["x"], lease=2))
    assert refused.value.reason == "FENCED"


async def test_a_rebuild_streams_progress_and_ends_with_the_switch(
    stub: v1.RetrievalServiceAsyncStub, keys: Keys, project: str
) -> None:
    with acting_as(keys.service(project)):
        await add(stub, ["rebuilt words"])
    with keys.asking(project, "admin"):
        messages = await rebuilt(stub, "rebuild-2")
    assert messages[-1].switched
    assert messages[-1].done_count >= 1
    with keys.asking(project):
        found = await stub.Search(asking("rebuilt", mode=v1.SEARCH_MODE_LEXICAL))
    assert len(found.hits) == 1


async def test_a_comparison_says_what_it_found_and_mended(
    stub: v1.RetrievalServiceAsyncStub, keys: Keys, project: str, postgres: Any
) -> None:
    with acting_as(keys.service(project)):
        await add(stub, ["mended words", "gone"])
    owner = await asyncpg.connect(postgres.owner_dsn)
    await owner.execute(
        "DELETE FROM retrieval.chunk WHERE project_id = $1 AND body = 'gone'", project
    )
    await owner.close()
    request = v1.ReconcileLexicalIndexRequest(project_id=project)
    with keys.asking(project, "admin"):
        found = await stub.ReconcileLexicalIndex(request)
        again = await stub.ReconcileLexicalIndex(request)
    (difference,) = found.differences
    assert (difference.expected_count, difference.indexed_count) == (1, 2)
    assert (found.version_count, found.difference_count, found.repaired_count) == (1, 1, 1)
    assert [lost.document_id for lost in found.incomplete] == ["doc_1"]
    assert again.difference_count == 0


async def test_a_purge_gives_a_receipt(
    stub: v1.RetrievalServiceAsyncStub, keys: Keys, project: str
) -> None:
    with acting_as(keys.service(project)):
        await add(stub, ["gone", "soon"])
    with keys.asking(project, "admin"):
        receipt = await stub.PurgeProject(v1.PurgeProjectRequest(project_id=project))
    assert (receipt.chunks_removed, receipt.documents_removed) == (2, 1)
    with keys.asking(project):
        assert not (await stub.Search(asking("gone"))).hits


async def test_what_was_acknowledged_survives_a_kill(
    postgres: Any, keys: Keys, tmp_path: Path, project: str
) -> None:
    settings = {**NOWHERE, "CITEMESH_RETRIEVAL_LEXICAL_DIR": str(tmp_path)}
    texts = [f"durable words {n}" for n in range(50)]

    async def write_and_die() -> None:
        async with running("retrieval", postgres, keys, **settings) as process:
            with acting_as(keys.service(project)):
                await add(v1.RetrievalServiceAsyncStub(process.channel), texts)
            process.process.kill()
            await process.process.wait()

    with pytest.raises(ProcessLookupError):  # the harness misses the process it would stop
        await write_and_die()
    async with running("retrieval", postgres, keys, **settings) as process:
        stub = v1.RetrievalServiceAsyncStub(process.channel)
        with keys.asking(project):
            for mode in (v1.SEARCH_MODE_LEXICAL, v1.SEARCH_MODE_DENSE):
                found = await stub.Search(asking("durable words", mode=mode, top_k=100))
                assert len(found.hits) == 50
        assert not any("building the lexical index" in line for line in process.lines)


async def test_a_second_process_on_the_same_index_says_which_setting(
    postgres: Any, keys: Keys, tmp_path: Path
) -> None:
    settings = {**NOWHERE, "CITEMESH_RETRIEVAL_LEXICAL_DIR": str(tmp_path)}
    async with running("retrieval", postgres, keys, **settings):
        with pytest.raises(DidNotStart) as refused:
            async with running("retrieval", postgres, keys, **settings):
                pass
    assert refused.value.code == 2
    assert "CITEMESH_RETRIEVAL_LEXICAL_DIR" in refused.value.output
