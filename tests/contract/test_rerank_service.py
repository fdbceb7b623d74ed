"""The rerank service as a process: deadlines, limits, tokens in the ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from citemesh.rerank import v1
from meshkit.context import acting_as
from meshkit.errors import InvalidInput, MeshError, PermissionDenied, Unauthenticated
from meshkit.ids import new_id
from tests.contract.service_process import DidNotStart, Keys, eventually, running

Stub = v1.RerankServiceAsyncStub
QUESTION = "How many days of paid leave does an employee have?"
ANSWER = "Every employee is entitled to 28 days of paid annual leave."
UNRELATED = "The pump's impeller must be replaced after 4,000 hours of operation."
FILLER = "The committee met on Tuesday and approved the minutes of its former meeting. " * 30


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
async def anonymous(postgres: Any, keys: Keys) -> AsyncIterator[Stub]:
    async with running("rerank", postgres, keys) as service:
        yield v1.RerankServiceAsyncStub(service.channel)


@pytest.fixture
def project() -> str:
    return new_id("prj")


@pytest.fixture
def stub(anonymous: Stub, keys: Keys, project: str) -> Iterator[Stub]:
    with keys.asking(project):
        yield anonymous


def request(*texts: str, **fields: Any) -> v1.RerankRequest:
    passages = [v1.Passage(id=f"p{i}", text=text) for i, text in enumerate(texts)]
    return v1.RerankRequest(query=QUESTION, passages=passages, **fields)


async def test_the_answer_comes_first_under_its_own_name(stub: Stub) -> None:
    response = await stub.Rerank(request(UNRELATED, ANSWER, UNRELATED), timeout=10)
    assert [(each.id, each.index) for each in response.results] == [("p1", 1), ("p0", 0), ("p2", 2)]
    best = response.results[0]
    assert best.score > 0.5 > response.results[1].score
    assert best.logit > 0 > response.results[1].logit
    assert response.complete
    assert response.usage.provider == "local"
    assert response.usage.input_tokens > 60
    assert response.usage.cost_micro_usd == 0
    assert (list(response.languages), list(response.known_languages)) == (["en"], ["en"])
    assert response.patience_seconds == 0.25


async def test_equal_passages_keep_the_callers_order(stub: Stub) -> None:
    response = await stub.Rerank(request(*[ANSWER] * 6), timeout=10)
    assert [each.index for each in response.results] == list(range(6))


async def test_only_the_best_n_are_returned(stub: Stub) -> None:
    response = await stub.Rerank(request(UNRELATED, ANSWER, UNRELATED, top_n=1), timeout=10)
    assert [each.id for each in response.results] == ["p1"]
    assert response.complete


async def test_near_its_deadline_it_returns_what_it_has_read(stub: Stub) -> None:
    # A response at all is one within the deadline.
    response = await stub.Rerank(request(*[FILLER] * 200, whole_passages=True), timeout=1.0)
    assert not response.complete
    assert 0 < len(response.results) < 200
    read = {each.index for each in response.results}
    # Two pairs are read at a time: of those, the later one may have been done first.
    assert read >= set(range(len(read) - 1))


async def test_a_caller_that_goes_away_leaves_no_work_behind(stub: Stub) -> None:
    started = time.monotonic()
    await stub.Rerank(request(FILLER, whole_passages=True), timeout=10)
    one = time.monotonic() - started
    call = asyncio.create_task(
        stub.Rerank(request(*[FILLER] * 200, whole_passages=True), timeout=60)
    )
    await asyncio.sleep(2 * one)  # the call is in the middle of its work
    call.cancel()
    with pytest.raises((asyncio.CancelledError, MeshError)):
        await call
    started = time.monotonic()
    await stub.Rerank(request(FILLER, whole_passages=True), timeout=10)
    # The 200 would take 100 times this long on two threads.
    assert time.monotonic() - started < 20 * one


async def test_a_call_without_a_context_is_refused(anonymous: Stub) -> None:
    with pytest.raises(Unauthenticated):
        await anonymous.Rerank(request(ANSWER), timeout=10)


async def test_a_call_without_a_scope_is_refused(anonymous: Stub, keys: Keys, project: str) -> None:
    with acting_as(keys.user(project)), pytest.raises(PermissionDenied):
        await anonymous.Rerank(request(ANSWER), timeout=10)


@pytest.mark.parametrize(
    "bad",
    [
        v1.RerankRequest(query="", passages=[v1.Passage(id="a", text="b")]),
        v1.RerankRequest(query="a"),
        v1.RerankRequest(query="a", passages=[v1.Passage(id="", text="b")]),
        v1.RerankRequest(query="a", passages=[v1.Passage(id="a", text="")]),
        request(*[ANSWER] * 201),
    ],
)
async def test_a_request_outside_its_contract_is_refused(stub: Stub, bad: v1.RerankRequest) -> None:
    with pytest.raises(InvalidInput) as caught:
        await stub.Rerank(bad, timeout=10)
    assert caught.value.reason == "REQUEST_INVALID"


async def test_the_tokens_are_in_the_projects_ledger(
    stub: Stub, postgres: Any, project: str
) -> None:
    response = await stub.Rerank(request(ANSWER), timeout=10)
    connection = await asyncpg.connect(postgres.owner_dsn)
    query = "SELECT * FROM usage.ledger WHERE project_id = $1"
    rows = await eventually(lambda: connection.fetch(query, project))
    await connection.close()
    [row] = rows
    assert (row["stage"], row["provider"]) == ("rerank", "local")
    assert row["input_tokens"] == response.usage.input_tokens


@pytest.mark.parametrize(
    ("providers", "says"),
    [
        ("cohere,local", "COHERE_API_KEY is not set"),
        ("gemini", "gemini cannot be used to rerank"),
        ("cohere/rerank-v0", "cohere/rerank-v0"),
        ("local,local", "CITEMESH_RERANK_PROVIDERS"),
    ],
)
async def test_a_provider_that_cannot_be_called_stops_the_start(
    postgres: Any, keys: Keys, providers: str, says: str
) -> None:
    with pytest.raises(DidNotStart) as caught:
        async with running(
            "rerank", postgres, keys, CITEMESH_RERANK_PROVIDERS=providers, COHERE_API_KEY=""
        ):
            pass
    assert caught.value.code == 2
    assert says in caught.value.output
    assert "Traceback" not in caught.value.output
