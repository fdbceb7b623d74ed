"""OpenSearch between services and over bad lines: two processes, 429, TLS, silence."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from citemesh.retrieval import v1
from meshkit.context import acting_as
from meshkit.errors import NotFound, Unavailable
from services.retrieval.lexical import (
    Changes,
    LexicalChunk,
    LexicalQuery,
    LexicalVersion,
    VersionKey,
)
from services.retrieval.lexical.opensearch.client import Options, connect
from services.retrieval.lexical.opensearch.home import OpenSearchHome
from tests.contract.retrieval_room import SPACE, project_id, vector_of
from tests.contract.service_process import Keys, ServiceProcess, eventually, running
from tests.opensearch.proxy import Proxy, before, certificate

SECONDS = 60
_KNOWN = health_pb2.HealthCheckResponse
NOWHERE = {
    "CITEMESH_EMBEDDING_ADDRESS": "127.0.0.1:1",
    "CITEMESH_EMBEDDING_BULK_ADDRESS": "127.0.0.1:1",
    "CITEMESH_RERANK_ADDRESS": "127.0.0.1:1",
}


@pytest.fixture
async def proxy(opensearch: str) -> AsyncIterator[Proxy]:
    async with before(opensearch) as between:
        yield between


@pytest.fixture
async def home(proxy: Proxy) -> AsyncIterator[OpenSearchHome]:
    """An index of its own on the node, reached through the proxy."""
    client = connect(Options((f"http://127.0.0.1:{proxy.port}",)))
    opened = OpenSearchHome(client, prefix="faults", generation=uuid.uuid4().hex, shards=1)
    try:
        await opened.publish(await opened.fresh())
        yield opened
    finally:
        proxy.stalled, proxy.busy = "", []
        await client.indices.delete(index=f"{opened.alias}-*")
        await opened.close()


def changes(revision: int, text: str) -> Changes:
    key = VersionKey("prj_a", "doc_1", 1)
    chunks = [LexicalChunk(revision, text, (), "en")]
    return Changes(replace=[LexicalVersion(key, "", {}, (), chunks)], revision=revision)


def query(text: str) -> LexicalQuery:
    return LexicalQuery(text, "prj_a", (), 10, {}, ())


async def test_a_write_that_is_refused_as_too_much_is_sent_again(
    proxy: Proxy, home: OpenSearchHome
) -> None:
    proxy.busy = ["_bulk", "_bulk"]
    await home.index.apply(changes(1, "kept words"))
    assert proxy.busy == []
    assert (await home.index.search(query("kept"))).keys == [1]


async def test_a_node_that_stays_too_busy_is_said_and_nothing_is_lost(
    proxy: Proxy, home: OpenSearchHome
) -> None:
    proxy.busy = ["_bulk"] * 5
    with pytest.raises(Unavailable) as busy:
        await home.index.apply(changes(1, "late words"))
    assert busy.value.reason == "LEXICAL_BUSY"
    assert busy.value.retry_after
    await home.index.apply(changes(1, "late words"))
    assert (await home.index.search(query("late"))).keys == [1]
    proxy.busy = ["_search"]
    with pytest.raises(Unavailable) as refused:
        await home.index.search(query("late"))
    assert refused.value.reason == "LEXICAL_BUSY"


async def test_a_search_that_is_not_answered_ends_at_its_deadline(
    proxy: Proxy, home: OpenSearchHome
) -> None:
    await home.index.apply(changes(1, "silent words"))
    proxy.stalled = "_search"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await home.index.search(query("silent"))
    proxy.stalled = ""
    # The connection that was given up is not used for the next search.
    async with asyncio.timeout(SECONDS):
        assert (await home.index.search(query("silent"))).keys == [1]


async def test_tls_is_spoken_to_the_authority_that_is_named_and_to_no_other(
    opensearch: str, tmp_path: Path
) -> None:
    tls, authority = certificate(tmp_path)
    (tmp_path / "other").mkdir()
    _, other = certificate(tmp_path / "other")
    async with before(opensearch, tls) as between:
        url = f"https://127.0.0.1:{between.port}"
        trusting = connect(Options((url,), ca_file=authority))
        try:
            assert (await trusting.info())["version"]["number"]
        finally:
            await trusting.close()
        for distrusting in (connect(Options((url,), ca_file=other)), connect(Options((url,)))):
            home = OpenSearchHome(distrusting, prefix="tls", generation="0" * 12, shards=1)
            with pytest.raises(Unavailable) as refused:
                await home.exists()
            assert refused.value.reason == "LEXICAL_UNREACHABLE"
            await home.close()
        # Nothing was sent before the certificate was checked.
        assert len(between.requests) == 1


async def test_two_retrieval_processes_share_one_opensearch(
    postgres: Any, opensearch: str, tmp_path: Path
) -> None:
    keys, project = Keys(tmp_path), project_id()
    prefix = f"two{uuid.uuid4().hex[:8]}"
    async with before(opensearch) as between:
        shared = {
            **NOWHERE,
            "CITEMESH_OPENSEARCH_URL": f"http://127.0.0.1:{between.port}",
            "CITEMESH_OPENSEARCH_PREFIX": prefix,
        }
        async with AsyncExitStack() as kept:
            leaving = AsyncExitStack()
            one, other = await asyncio.gather(
                leaving.enter_async_context(running("retrieval", postgres, keys, **shared)),
                kept.enter_async_context(running("retrieval", postgres, keys, **shared)),
            )
            first, second = (v1.RetrievalServiceAsyncStub(each.channel) for each in (one, other))
            async with leaving:
                for service in (one, other):
                    await eventually(partial(_says, service, _KNOWN.SERVING), SECONDS)
                await _add(first, keys, project, "doc_1", "harbour words by the first")
                await _add(second, keys, project, "doc_2", "harbour words by the second")
                for stub in (first, second):
                    assert await _found(stub, keys, project) == {"doc_1", "doc_2"}
                with acting_as(keys.service(project)):
                    removal = v1.RemoveDocumentRequest(
                        document_id="doc_1", lease_epoch=2, request_id=uuid.uuid4().hex
                    )
                    await second.RemoveDocument(removal, timeout=SECONDS)
                assert await _found(first, keys, project) == {"doc_2"}
            await _add(second, keys, project, "doc_3", "harbour words after the first has gone")
            assert await _found(second, keys, project) == {"doc_2", "doc_3"}
            between.away = True
            await eventually(partial(_says, other, _KNOWN.NOT_SERVING), SECONDS)


async def _says(service: ServiceProcess, status: int) -> bool:
    """Whether a retrieval process says so about OpenSearch."""
    stub: Any = health_pb2_grpc.HealthStub(service.channel)
    name = "citemesh.retrieval.v1.RetrievalService/opensearch"
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=SECONDS)
    except NotFound:
        return False
    return bool(answer.status == status)


async def _add(
    stub: v1.RetrievalServiceAsyncStub, keys: Keys, project: str, document: str, text: str
) -> None:
    version = v1.DocumentVersion(document_id=document, version=1, lease_epoch=1)
    chunk = v1.Chunk(
        ordinal=0, text=text, vector=vector_of(text).tolist(), token_count=4, language="en"
    )
    with acting_as(keys.service(project)):
        await stub.IndexChunks(
            v1.IndexChunksRequest(document=version, space=SPACE, chunks=[chunk]), timeout=SECONDS
        )
        await stub.ActivateVersion(
            v1.ActivateVersionRequest(
                document=version, chunk_count=1, title=document, media_type="text/plain"
            ),
            timeout=SECONDS,
        )


async def _found(stub: v1.RetrievalServiceAsyncStub, keys: Keys, project: str) -> set[str]:
    asked = v1.SearchRequest(
        query="harbour", mode=v1.SEARCH_MODE_LEXICAL, rerank=v1.RERANK_MODE_OFF
    )
    with keys.asking(project):
        answer = await stub.Search(asked, timeout=SECONDS)
    assert list(answer.degraded) == []
    return {hit.chunk.document_id for hit in answer.hits}
