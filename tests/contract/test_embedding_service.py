"""The embedding service as processes: both lanes, caches, spaces, refusals at the start."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from citemesh.embedding import v1
from meshkit.context import acting_as
from meshkit.errors import InvalidInput, NotFound, PermissionDenied, Unauthenticated
from meshkit.ids import new_id
from tests.contract.service_process import DidNotStart, Keys, eventually, running

Stub = v1.EmbeddingServiceAsyncStub
DEFAULT = "local/bge-small-en-v1.5@384"
OTHER = "local/all-MiniLM-L6-v2@384"
QUERY, DOCUMENT = v1.EMBED_TASK_QUERY, v1.EMBED_TASK_DOCUMENT


async def empty_registry(postgres: Any) -> None:
    connection = await asyncpg.connect(postgres.owner_dsn)
    await connection.execute("TRUNCATE embedding.space, embedding.purge CASCADE")
    await connection.close()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
async def anonymous(postgres: Any, keys: Keys) -> AsyncIterator[Stub]:
    await empty_registry(postgres)
    async with running("embedding", postgres, keys) as service:
        yield v1.EmbeddingServiceAsyncStub(service.channel)
    await empty_registry(postgres)


@pytest.fixture
def project() -> str:
    return new_id("prj")


@pytest.fixture
def stub(anonymous: Stub, keys: Keys, project: str) -> Iterator[Stub]:
    with keys.asking(project):
        yield anonymous


async def embed(
    stub: Stub, *texts: str, task: v1.EmbedTask.ValueType = QUERY, **fields: Any
) -> v1.EmbedResponse:
    request = v1.EmbedRequest(texts=texts, task=task, **fields)
    return await stub.Embed(request, timeout=30)


def values(response: v1.EmbedResponse) -> list[list[float]]:
    return [list(vector.values) for vector in response.vectors]


async def test_a_question_becomes_a_vector_of_the_active_space(stub: Stub) -> None:
    response = await embed(stub, "How many days of leave are there?")
    [vector] = values(response)
    assert response.space == DEFAULT
    assert len(vector) == 384
    assert math.hypot(*vector) == pytest.approx(1.0, abs=1e-4)
    assert response.usage.input_tokens > 8
    assert (response.usage.provider, response.usage.cost_micro_usd) == ("local", 0)


async def test_the_same_question_again_comes_from_the_cache_and_counts_nothing(stub: Stub) -> None:
    first = await embed(stub, "one", "two")
    again = await embed(stub, "two", "three", "two")
    assert (first.cached_count, again.cached_count) == (0, 2)
    assert values(again)[0] == values(again)[2] == values(first)[1]
    assert again.usage.input_tokens < first.usage.input_tokens
    only_cached = await embed(stub, "one")
    assert (only_cached.cached_count, only_cached.usage.input_tokens) == (1, 0)


async def test_a_project_has_no_use_of_what_another_one_asked(anonymous: Stub, keys: Keys) -> None:
    with keys.asking(new_id("prj")):
        await embed(anonymous, "the same question")
    with keys.asking(new_id("prj")):
        response = await embed(anonymous, "the same question")
    assert response.cached_count == 0


async def test_bypassing_neither_reads_nor_writes_the_cache(stub: Stub) -> None:
    await embed(stub, "bypassed", bypass_cache=True)
    assert (await embed(stub, "bypassed")).cached_count == 0
    assert (await embed(stub, "bypassed", bypass_cache=True)).cached_count == 0


async def test_documents_are_not_cached_and_differ_from_questions(stub: Stub) -> None:
    text = "Every employee has 28 days of leave."
    question = values(await embed(stub, text))[0]
    first = await embed(stub, text, task=DOCUMENT)
    again = await embed(stub, text, task=DOCUMENT)
    assert again.cached_count == 0
    assert values(first) == values(again)
    assert values(first)[0] != question


async def test_both_lanes_give_the_same_vector(stub: Stub, postgres: Any, keys: Keys) -> None:
    texts = [f"chunk {i} of a document about pumps" for i in range(20)]
    async with running("embedding_bulk", postgres, keys) as service:
        bulk = await embed(v1.EmbeddingServiceAsyncStub(service.channel), *texts, task=DOCUMENT)
    assert values(bulk) == values(await embed(stub, *texts, task=DOCUMENT))


async def test_a_purge_forgets_the_questions_of_one_project(
    anonymous: Stub, keys: Keys, project: str
) -> None:
    other = new_id("prj")
    for name in (project, other):
        with keys.asking(name):
            await embed(anonymous, "remember me")
    with acting_as(keys.service(project)):
        response = await anonymous.PurgeProject(v1.PurgeProjectRequest(project_id=project))
    assert response.vectors_removed == 1
    with keys.asking(project):
        assert (await embed(anonymous, "remember me")).cached_count == 0
    with keys.asking(other):
        assert (await embed(anonymous, "remember me")).cached_count == 1


async def test_only_an_administrator_of_the_project_may_purge_it(
    anonymous: Stub, keys: Keys, project: str
) -> None:
    request = v1.PurgeProjectRequest(project_id=project)
    for allowed in (keys.user(project, "read", "write"), keys.user(new_id("prj"), "admin")):
        with acting_as(allowed), pytest.raises(PermissionDenied):
            await anonymous.PurgeProject(request)
    with acting_as(keys.user(project, "admin")):
        await anonymous.PurgeProject(request)


async def test_spaces_are_listed_with_what_identifies_them(stub: Stub) -> None:
    [space] = (await stub.ListSpaces(v1.ListSpacesRequest())).spaces
    assert (space.name, space.state) == (DEFAULT, v1.SPACE_STATE_ACTIVE)
    assert (space.dimensions, space.normalized) == (384, True)
    assert len(space.version) == 16
    assert (space.limits.max_texts_per_call, space.limits.max_tokens_per_text) == (256, 512)
    assert space.create_time.seconds > 1_700_000_000


async def test_an_unknown_space_is_refused_by_name(stub: Stub) -> None:
    with pytest.raises(NotFound) as caught:
        await embed(stub, "a", space=OTHER)
    assert caught.value.reason == "SPACE_UNKNOWN"
    assert OTHER in caught.value.detail
    assert DEFAULT in caught.value.detail


async def test_changing_spaces_needs_more_than_reading(stub: Stub) -> None:
    with pytest.raises(PermissionDenied):
        await stub.CreateSpace(v1.CreateSpaceRequest(name=DEFAULT))
    with pytest.raises(PermissionDenied):
        await stub.SetSpaceState(
            v1.SetSpaceStateRequest(name=DEFAULT, state=v1.SPACE_STATE_RETIRED)
        )
    with pytest.raises(PermissionDenied):
        await stub.SwitchSpace(v1.SwitchSpaceRequest(name=DEFAULT, request_id="request-1"))


@pytest.mark.parametrize(
    "bad",
    [
        v1.EmbedRequest(task=QUERY),
        v1.EmbedRequest(texts=["a"]),
        v1.EmbedRequest(texts=[""], task=QUERY),
        v1.EmbedRequest(texts=["a"] * 257, task=QUERY),
        v1.EmbedRequest(texts=["a" * 32_769], task=QUERY),
    ],
)
async def test_a_request_outside_its_contract_is_refused(stub: Stub, bad: v1.EmbedRequest) -> None:
    with pytest.raises(InvalidInput) as caught:
        await stub.Embed(bad, timeout=10)
    assert caught.value.reason == "REQUEST_INVALID"


async def test_a_call_without_a_context_is_refused(anonymous: Stub) -> None:
    with pytest.raises(Unauthenticated):
        await embed(anonymous, "a")


async def test_the_tokens_are_in_the_projects_ledger(
    stub: Stub, postgres: Any, project: str
) -> None:
    response = await embed(stub, "counted")
    connection = await asyncpg.connect(postgres.owner_dsn)
    query = "SELECT * FROM usage.ledger WHERE project_id = $1"
    rows = await eventually(lambda: connection.fetch(query, project))
    await connection.close()
    [row] = rows
    assert (row["stage"], row["model"]) == ("embed", "bge-small-en-v1.5")
    assert row["input_tokens"] == response.usage.input_tokens


async def refused(postgres: Any, keys: Keys, **environment: str) -> str:
    with pytest.raises(DidNotStart) as caught:
        async with running("embedding", postgres, keys, **environment):
            pass
    assert caught.value.code == 2
    assert "citemesh embedding cannot start." in caught.value.output
    assert "Traceback" not in caught.value.output
    return caught.value.output


async def test_a_process_that_would_mix_spaces_does_not_start(
    stub: Stub, postgres: Any, keys: Keys
) -> None:
    said = await refused(postgres, keys, CITEMESH_EMBEDDING_SPACES=OTHER)
    assert f"The active space is {DEFAULT}" in said
    assert OTHER in said
    connection = await asyncpg.connect(postgres.owner_dsn)
    try:
        update = "UPDATE embedding.space SET version = $2 WHERE name = $1 RETURNING version"
        before = await connection.fetchval(
            "SELECT version FROM embedding.space WHERE name = $1", DEFAULT
        )
        await connection.execute(update, DEFAULT, "other-weights")
        said = await refused(postgres, keys)
        assert f"version other-weights there, {before} here" in said
        await connection.execute(update, DEFAULT, before)
    finally:
        await connection.close()


async def test_a_provider_of_a_later_version_stops_the_start(postgres: Any, keys: Keys) -> None:
    said = await refused(postgres, keys, CITEMESH_EMBEDDING_SPACES=f"gemini/x@768,{DEFAULT}")
    assert "gemini/x@768" in said


async def test_a_switch_reaches_the_other_processes_and_vectors_never_mix(
    anonymous: Stub, postgres: Any, keys: Keys, project: str
) -> None:
    both = {"CITEMESH_EMBEDDING_SPACES": f"{DEFAULT},{OTHER}"}
    refresh = {"CITEMESH_EMBEDDING_SPACE_REFRESH_SECONDS": "0.1"}
    async with (
        running("embedding", postgres, keys, **both, **refresh) as query,
        running("embedding_bulk", postgres, keys, **both, **refresh) as bulk,
    ):
        lanes = [v1.EmbeddingServiceAsyncStub(lane.channel) for lane in (query, bulk)]
        with acting_as(keys.service(project)):
            before = await embed(lanes[0], "a question")
            filled = v1.SetSpaceStateRequest(name=OTHER, state=v1.SPACE_STATE_STANDBY)
            await lanes[0].SetSpaceState(filled)
            response = await lanes[0].SwitchSpace(
                v1.SwitchSpaceRequest(name=OTHER, request_id=new_id("req"))
            )
            assert (response.active.name, response.previous.name) == (OTHER, DEFAULT)
            after = await embed(lanes[0], "a question")
            assert (before.space, after.space) == (DEFAULT, OTHER)
            assert after.cached_count == 0
            assert values(before) != values(after)
            former = await embed(lanes[0], "a question", space=DEFAULT)
            assert values(former) == values(before)

            async def bulk_lane_follows() -> bool:
                return (await embed(lanes[1], "a question")).space == OTHER

            assert await eventually(bulk_lane_follows)
            await lanes[0].SwitchSpace(
                v1.SwitchSpaceRequest(name=DEFAULT, request_id=new_id("req"))
            )
