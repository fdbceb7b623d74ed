"""Spaces and stored vectors in a real Postgres: one active space, one project's vectors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import numpy as np
import pytest

from meshkit import weights
from meshkit.context import acting_as
from meshkit.database.pool import Database
from meshkit.errors import Conflict, NotFound, Precondition, Unavailable
from meshkit.ids import new_id
from meshkit.usage import Budget
from meshkit.weights.threads import ModelThreads
from services.embedding.directory import SpaceDirectory
from services.embedding.embedder import Task
from services.embedding.embedding import Embedding
from services.embedding.local import LocalEmbedder
from services.embedding.query_cache import CacheKey, QueryCache
from services.embedding.registry import SpaceRegistry
from services.embedding.spaces import Identity, SpaceState, parse_name
from services.embedding.stored_vectors import StoredVectors
from services.embedding.vectors import Vectors
from tests.contract.service_process import Keys

A = Identity("local/a@3", "local", "a", 3, True, "v1")
B = Identity("local/b@3", "local", "b", 3, True, "v1")
BOTH = {A.name: A, B.name: B}
MONTH = timedelta(days=30)


@pytest.fixture
async def admin(postgres: Any) -> AsyncIterator[Any]:
    """The superuser; the registry is empty before and after each test."""
    connection = await asyncpg.connect(postgres.owner_dsn)
    await connection.execute("TRUNCATE embedding.space, embedding.purge CASCADE")
    yield connection
    await connection.execute("TRUNCATE embedding.space, embedding.purge CASCADE")
    await connection.close()


@pytest.fixture
async def database(postgres: Any, admin: Any) -> AsyncIterator[Database]:
    opened = await Database.connect(postgres.dsn("embedding"), role="citemesh_embedding", size=8)
    yield opened
    await opened.close()


@pytest.fixture
def registry(database: Database) -> SpaceRegistry:
    return SpaceRegistry(database)


async def test_of_processes_that_start_together_all_see_one_active_space(
    registry: SpaceRegistry,
) -> None:
    found = await asyncio.gather(*(registry.open(BOTH) for _ in range(6)))
    assert all(spaces == found[0] for spaces in found)
    assert [(space.identity, space.state) for space in found[0]] == [
        (A, SpaceState.ACTIVE),
        (B, SpaceState.BUILDING),
    ]


async def test_another_order_of_the_setting_does_not_switch(registry: SpaceRegistry) -> None:
    await registry.open(BOTH)
    spaces = await registry.open({B.name: B, A.name: A})
    assert spaces[0].identity == A


async def test_a_process_with_other_weights_is_refused_and_changes_nothing(
    registry: SpaceRegistry,
) -> None:
    await registry.open({A.name: A})
    with pytest.raises(Precondition) as caught:
        await registry.open({A.name: replace(A, version="v2"), B.name: B})
    assert "version v1 there, v2 here" in caught.value.detail
    assert [space.identity for space in await registry.all()] == [A]


async def test_a_space_is_created_once(registry: SpaceRegistry) -> None:
    await registry.open({A.name: A})
    first = await registry.create(B)
    assert first.state is SpaceState.BUILDING
    assert await registry.create(B) == first
    with pytest.raises(Precondition, match="SPACE_MISMATCH"):
        await registry.create(replace(B, dimensions=4))


@pytest.fixture
async def filled(registry: SpaceRegistry) -> SpaceRegistry:
    """Two spaces of which retrieval has said that both are filled."""
    await registry.open(BOTH)
    await registry.set_state(B.name, SpaceState.STANDBY)
    return registry


async def test_a_space_that_is_not_filled_is_not_switched_to(registry: SpaceRegistry) -> None:
    await registry.open(BOTH)
    with pytest.raises(Precondition, match="SPACE_INCOMPLETE"):
        await registry.switch(B.name, "request-1")
    await registry.set_state(B.name, SpaceState.STANDBY)
    assert (await registry.switch(B.name, "request-1"))[0].identity == B


async def test_the_active_space_keeps_its_state(filled: SpaceRegistry) -> None:
    for state in (SpaceState.BUILDING, SpaceState.STANDBY, SpaceState.RETIRED):
        with pytest.raises(Precondition, match="SPACE_IN_USE"):
            await filled.set_state(A.name, state)
        assert (await filled.set_state(B.name, state)).state is state
    with pytest.raises(NotFound, match="SPACE_UNKNOWN"):
        await filled.set_state("local/c@3", SpaceState.RETIRED)


async def test_a_switch_is_one_step_and_its_repetition_does_nothing(
    filled: SpaceRegistry,
) -> None:
    registry = filled
    active, previous = await registry.switch(B.name, "request-1")
    assert (active.identity, active.state) == (B, SpaceState.ACTIVE)
    assert (previous.identity, previous.state) == (A, SpaceState.STANDBY)
    await registry.switch(A.name, "request-2")
    repeated, _ = await registry.switch(B.name, "request-1")
    assert repeated.identity == B
    assert (await registry.all())[0].identity == A


async def test_switches_at_the_same_time_leave_one_active_space(filled: SpaceRegistry) -> None:
    registry = filled
    names = [B.name, A.name] * 5
    await asyncio.gather(
        *(registry.switch(name, f"request-{i}") for i, name in enumerate(names)),
        return_exceptions=True,
    )
    states = [space.state for space in await registry.all()]
    assert states.count(SpaceState.ACTIVE) == 1


async def test_a_switch_that_makes_no_sense_is_refused(filled: SpaceRegistry) -> None:
    registry = filled
    with pytest.raises(NotFound, match="SPACE_UNKNOWN"):
        await registry.switch("local/c@3", "request-1")
    with pytest.raises(Precondition, match="SPACE_ALREADY_ACTIVE"):
        await registry.switch(A.name, "request-1")
    await registry.switch(B.name, "request-1")
    with pytest.raises(Conflict, match="REQUEST_ID_REUSED"):
        await registry.switch(A.name, "request-1")
    await registry.set_state(A.name, SpaceState.RETIRED)
    with pytest.raises(Precondition, match="SPACE_RETIRED"):
        await registry.switch(A.name, "request-2")


async def test_the_database_itself_refuses_a_second_active_space(
    registry: SpaceRegistry, admin: Any
) -> None:
    await registry.open(BOTH)
    with pytest.raises(asyncpg.UniqueViolationError):
        await admin.execute("UPDATE embedding.space SET state = 'active'")


def key(text: str, project: str, task: Task = Task.QUERY) -> CacheKey:
    return CacheKey(project, A.name, task, text.encode().ljust(32))


VECTOR: Vectors = np.array([0.6, 0.8, 0.0], np.float32)


@pytest.fixture
async def stored(database: Database, registry: SpaceRegistry) -> StoredVectors:
    await registry.open(BOTH)
    return StoredVectors(database, MONTH)


@pytest.fixture
def project() -> str:
    return new_id("prj")


async def test_a_stored_vector_is_found_by_its_own_key_only(
    stored: StoredVectors, project: str
) -> None:
    mine = key("a", project)
    stored.write_later(mine, VECTOR)
    await stored.flush()
    found = await stored.read([mine, key("b", project)])
    assert {k: v.tobytes() for k, v in found.items()} == {mine: VECTOR.tobytes()}
    assert await stored.read([key("a", new_id("prj"))]) == {}
    assert await stored.read([key("a", project, Task.DOCUMENT)]) == {}
    assert await stored.read([replace(mine, space=B.name)]) == {}


async def test_row_security_hides_the_vectors_of_other_projects(
    stored: StoredVectors, database: Database, project: str
) -> None:
    stored.write_later(key("a", project), VECTOR)
    await stored.flush()
    count = "SELECT count(*) FROM embedding.vector_cache"
    async with database.project(project) as connection:
        assert await connection.fetchval(count) == 1
    async with database.project(new_id("prj")) as connection:
        assert await connection.fetchval(count) == 0
    async with database.connection() as connection:
        assert await connection.fetchval(count) == 0


async def test_a_purge_leaves_nothing_and_refuses_what_a_replica_still_writes(
    stored: StoredVectors, database: Database, admin: Any, project: str
) -> None:
    other, replica = new_id("prj"), StoredVectors(database, MONTH)
    for owner in (project, other):
        stored.write_later(key("a", owner), VECTOR)
    await stored.flush()
    stored.write_later(key("b", project), VECTOR)
    replica.write_later(key("c", project), VECTOR)
    assert await stored.purge(project) == 1
    await stored.flush()
    await replica.flush()
    rows = await admin.fetch("SELECT project_id FROM embedding.vector_cache")
    assert [row["project_id"] for row in rows] == [other]
    assert await stored.purge(project) == 0


async def test_old_vectors_and_old_purges_are_swept(
    stored: StoredVectors, admin: Any, project: str
) -> None:
    for name in ("old", "young"):
        stored.write_later(key(name, project), VECTOR)
    await stored.flush()
    await stored.purge(new_id("prj"))
    await admin.execute(
        "UPDATE embedding.vector_cache SET created_at = now() - interval '31 days' "
        "WHERE text_sha256 = $1",
        key("old", project).text_sha256,
    )
    await admin.execute("UPDATE embedding.purge SET purged_at = now() - interval '1 hour'")
    assert await stored.sweep() == 1
    assert list(await stored.read([key("old", project), key("young", project)])) == [
        key("young", project)
    ]
    assert await admin.fetchval("SELECT count(*) FROM embedding.purge") == 0


async def test_a_cache_whose_database_is_away_is_an_empty_cache(
    postgres: Any, database: Database, project: str
) -> None:
    stored = StoredVectors(database, MONTH)
    await database.close()
    assert await stored.read([key("a", project)]) == {}
    stored.write_later(key("a", project), VECTOR)
    await stored.flush()
    with pytest.raises(Unavailable):
        await stored.purge(project)


async def test_an_embedder_worth_caching_is_asked_once_for_all_replicas(
    database: Database, tmp_path: Any, project: str
) -> None:
    space = parse_name("local/bge-small-en-v1.5@384")
    threads = ModelThreads(1, "test")
    found = await asyncio.to_thread(weights.ensure, [space.model])
    embedder = LocalEmbedder(space, found[space.model], threads, worth_caching=True)
    directory = SpaceDirectory(SpaceRegistry(database), {str(space): embedder})
    await directory.open()

    def replica() -> tuple[Embedding, StoredVectors]:
        stored = StoredVectors(database, MONTH)
        memory = QueryCache(10, 60, lambda: 0.0)
        return Embedding(directory, Budget(database), memory, stored), stored

    (first, written), (second, _) = replica(), replica()
    with acting_as(Keys(tmp_path).user(project, "read")):
        computed = await first.embed(["a question"], Task.QUERY)
        await written.flush()
        cached = await second.embed(["a question", "another"], Task.QUERY)
        assert (computed.cached_count, cached.cached_count) == (0, 1)
        assert cached.vectors[0].tobytes() == computed.vectors[0].tobytes()
        assert (await second.embed(["a question"], Task.DOCUMENT)).cached_count == 0
        bypassed = await second.embed(["a question"], Task.QUERY, bypass_cache=True)
        assert bypassed.cached_count == 0
        assert bypassed.vectors[0].tobytes() == computed.vectors[0].tobytes()
    threads.close()
