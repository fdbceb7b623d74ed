"""OpenSearch behind the service: two replicas, losses, rebuilds, late writes, refusals."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import NotFoundError
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from meshkit.errors import Unavailable
from meshkit.telemetry import tracing
from meshkit.telemetry.schema import schema
from services.retrieval.lexical import (
    Changes,
    LexicalChunk,
    LexicalQuery,
    LexicalVersion,
    VersionKey,
)
from services.retrieval.lexical.home import generation
from services.retrieval.lexical.opensearch.client import Options, connect
from services.retrieval.lexical.opensearch.home import OpenSearchHome
from services.retrieval.outbox import LexicalProjection
from services.retrieval.rebuild import Rebuilds
from services.retrieval.versions import Corpus
from tests.contract.retrieval_room import Room, open_room, project_id


class Replica:
    """What a second retrieval process has of its own, over the database of a room."""

    def __init__(self, room: Room, url: str, prefix: str, database_id: str) -> None:
        self.client = connect(Options((url,)))
        self.home = OpenSearchHome(self.client, prefix=prefix, generation=database_id, shards=1)
        self.projection = LexicalProjection(room.database, self.home.index)
        self.rebuilds = Rebuilds(self.home, room.database, self.projection)
        self.corpus = Corpus(room.database, room.spaces, self.projection)

    async def keys(self, project: str, text: str) -> list[int]:
        return (await self.home.index.search(LexicalQuery(text, project, (), 100, {}, ()))).keys

    async def build(self) -> None:
        async for _ in self.rebuilds.run(uuid.uuid4().hex):
            pass

    async def indexes(self) -> list[str]:
        return sorted(await self.client.indices.get_alias(index=f"{self.home.alias}-*"))


@pytest.fixture
async def room(postgres: Any, tmp_path: Path) -> AsyncIterator[Room]:
    async with open_room(postgres.dsn("retrieval"), postgres.owner_dsn, tmp_path) as opened:
        yield opened


@pytest.fixture
async def replicas(room: Room, opensearch: str) -> AsyncIterator[tuple[Replica, Replica]]:
    prefix, database_id = f"t{uuid.uuid4().hex[:8]}", await generation(room.database)
    first, second = (Replica(room, opensearch, prefix, database_id) for _ in range(2))
    await first.build()
    # The room writes through the first replica.
    room.corpus = first.corpus
    try:
        yield first, second
    finally:
        for replica in (first, second):
            await replica.rebuilds.close()
        await first.client.indices.delete(index=f"{first.home.alias}-*")
        await first.home.close()
        await second.home.close()


async def test_two_replicas_drain_one_outbox_and_both_find_everything(
    room: Room, replicas: tuple[Replica, Replica]
) -> None:
    first, second = replicas
    project = project_id()
    wake = asyncio.Event()
    drains = [asyncio.create_task(r.projection.run(wake, 0.05)) for r in replicas]
    second_room = Room(**{**vars(room), "corpus": second.corpus})
    await asyncio.gather(
        *(
            (room, second_room)[n % 2].add(project, f"doc_{n}", [f"shared words {n}"])
            for n in range(12)
        )
    )
    for replica in replicas:
        assert len(await replica.keys(project, "shared words")) == 12
    await asyncio.gather(
        *(
            replicas[n % 2].corpus.remove(project, f"doc_{n}", 2, f"request-{n}")
            for n in range(0, 12, 2)
        )
    )
    async with asyncio.timeout(30):
        while await room.owner.fetchval(
            "SELECT count(*) FROM retrieval.lexical_outbox WHERE project_id = $1", project
        ):
            await asyncio.sleep(0.02)
    for task in drains:
        task.cancel()
    await asyncio.gather(*drains, return_exceptions=True)
    held = await first.home.index.inventory(project)
    assert sorted(key.document_id for key in held) == sorted(f"doc_{n}" for n in range(1, 12, 2))
    assert project in await second.home.index.projects()


async def test_a_rebuild_by_one_replica_serves_the_other_and_leaves_one_index(
    room: Room, replicas: tuple[Replica, Replica]
) -> None:
    first, second = replicas
    project = project_id()
    await room.add(project, "doc_1", ["rebuilt words"])
    (before,) = await first.indexes()
    await second.build()
    await second.rebuilds.close()
    after = await first.indexes()
    assert len(after) == 1
    assert after != [before]
    assert len(await first.keys(project, "rebuilt")) == 1
    await room.add(project, "doc_2", ["rebuilt later"])
    assert len(await second.keys(project, "rebuilt")) == 2


async def test_a_lost_index_is_built_anew_and_nothing_is_lost(
    room: Room, replicas: tuple[Replica, Replica]
) -> None:
    first, _ = replicas
    project = project_id()
    await room.add(project, "doc_1", ["kept words"])
    await first.client.indices.delete(index=f"{first.home.alias}-*")
    with pytest.raises(Unavailable) as missing:
        await first.keys(project, "kept")
    assert missing.value.reason == "LEXICAL_INDEX_MISSING"
    with pytest.raises(Unavailable):
        await room.add(project, "doc_2", ["kept too"])
    keeper = asyncio.create_task(first.rebuilds.keep(0.05))
    try:
        async with asyncio.timeout(30):
            while not await first.home.exists():
                await asyncio.sleep(0.05)
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
    await room.activate(project, "doc_2", 1)
    assert len(await first.keys(project, "kept")) == 2


async def test_a_full_disk_delays_and_loses_nothing(
    room: Room, replicas: tuple[Replica, Replica]
) -> None:
    first, _ = replicas
    project = project_id()
    block = "index.blocks.read_only_allow_delete"
    await first.client.indices.put_settings(index=first.home.alias, body={block: True})
    with pytest.raises(Unavailable) as blocked:
        await room.add(project, "doc_1", ["delayed words"])
    assert blocked.value.reason == "LEXICAL_READ_ONLY"
    await first.client.indices.put_settings(index=first.home.alias, body={block: None})
    await room.activate(project, "doc_1", 1)
    assert len(await first.keys(project, "delayed")) == 1


async def test_a_late_write_brings_nothing_back_and_tombstones_are_forgotten_in_the_end(
    replicas: tuple[Replica, Replica],
) -> None:
    index = replicas[0].home.index
    key = VersionKey(project_id(), "doc_1", 1)
    version = LexicalVersion(key, "", {}, (), [LexicalChunk(7_000_000_001, "late words", (), "")])
    await index.apply(Changes(replace=[version], revision=1_000_010))
    await index.apply(Changes(delete=[key], revision=1_000_011))
    await index.apply(Changes(replace=[version], revision=1_000_010))
    assert await index.inventory(key.project_id) == {}
    assert await replicas[0].keys(key.project_id, "late words") == []
    assert await index.forget() == 0
    assert await index.forget(older_than=-10) >= 1


async def test_an_opensearch_that_is_away_is_said_at_once(room: Room) -> None:
    client = connect(Options(("http://127.0.0.1:9",)))
    home = OpenSearchHome(client, prefix="away", generation="0" * 12, shards=1)
    await room.projection.use(home.index)
    project = project_id()
    await room.write(project, "doc_1", ["words by vector"])
    with pytest.raises(Unavailable) as away:
        await room.activate(project, "doc_1", 1)
    assert away.value.reason == "LEXICAL_UNREACHABLE"
    found = await room.search(project, "words")
    assert found.degraded == ["lexical"]
    # For the tests that share the database.
    await room.owner.execute("DELETE FROM retrieval.lexical_outbox WHERE project_id = $1", project)
    await home.close()


async def test_what_is_asked_of_opensearch_stands_in_the_trace_without_any_text(
    replicas: tuple[Replica, Replica], spans: InMemorySpanExporter
) -> None:
    first, _ = replicas
    with tracing.span("SELECT"):
        await first.keys(project_id(), "quokka")
        with pytest.raises(NotFoundError):
            await first.client.indices.get(index="never-made")
    found = {span.name: span for span in spans.get_finished_spans()}
    root, search, failed = (found[n] for n in ("SELECT", "opensearch search", "opensearch index"))
    for span in (search, failed):
        assert span.parent is not None
        assert root.context is not None
        assert span.parent.span_id == root.context.span_id
        assert span.kind.name == "CLIENT"
        said = schema().span(span.name, "client")
        assert set(span.attributes or ()) - schema().everywhere <= said.attributes
        assert "quokka" not in span.to_json()
    assert dict(search.attributes or {}) == {
        "db.system.name": "opensearch",
        "db.operation.name": "search",
        "http.request.method": "POST",
    }
    assert search.end_time is not None
    assert search.start_time is not None
    assert search.end_time > search.start_time
    assert search.status.is_ok
    assert not failed.status.is_ok
