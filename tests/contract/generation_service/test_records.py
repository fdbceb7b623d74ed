"""What is remembered: answers served again, feedback, and what a purge takes."""

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from citemesh.generation import v1 as generation_v1
from meshkit import context
from meshkit.errors import NotFound, PermissionDenied
from tests.contract.generation_room import (
    QUESTION,
    Caller,
    kinds,
)
from tests.contract.service_process import eventually


async def test_the_same_question_is_answered_once_until_the_corpus_changes(
    caller: Caller,
) -> None:
    first = (await caller.ask(QUESTION))[-1].done
    events = await caller.ask(f"  {QUESTION.upper()} ")
    again = events[-1].done
    assert again.cache == generation_v1.CACHE_STATUS_EXACT
    assert again.answer == first.answer
    assert again.answer_id != first.answer_id
    assert list(again.citations) == list(first.citations)
    assert not again.usage
    assert kinds(events) == ["sources", "delta", "citation", "done"]
    other = (await caller.ask(QUESTION, who="user:bob"))[-1].done
    assert other.cache == generation_v1.CACHE_STATUS_NONE
    bypassing = (await caller.ask(QUESTION, bypass_cache=True))[-1].done
    assert bypassing.cache == generation_v1.CACHE_STATUS_NONE
    caller.mesh.world.epoch += 1
    assert (await caller.ask(QUESTION))[-1].done.cache == generation_v1.CACHE_STATUS_NONE


async def test_only_an_answer_that_was_found_is_worth_asking_for_the_state_of_the_corpus(
    caller: Caller, postgres: Any
) -> None:
    world = caller.mesh.world
    await caller.ask(QUESTION)
    told = world.states_told
    await caller.ask("How are train tickets booked?")
    assert world.states_told == told
    await caller.ask(QUESTION)
    assert world.states_told == told + 1
    world.epoch += 1
    # What others ask after a change finds that out without the cache, and older answers go.
    await caller.ask("Who books train tickets?")
    assert (await rows(postgres, caller.project))["answer_cache"] == 1
    assert world.states_told == told + 1


async def test_a_question_in_other_words_gets_the_answer_given_before(caller: Caller) -> None:
    first = (await caller.ask(QUESTION))[-1].done
    alike = "How many days of annual leave does an employee have?"
    events = await caller.ask(alike)
    again = events[-1].done
    assert again.cache == generation_v1.CACHE_STATUS_SEMANTIC
    assert (again.answer, again.confidence) == (first.answer, first.confidence)
    assert again.answer_id != first.answer_id
    assert kinds(events)[0] == "sources"
    for other in (
        "How many days of annual leave do employees not have?",
        "How many days of annual leave do employees have in 2023?",
        "How many days of sick leave do employees have?",
    ):
        done = (await caller.ask(other))[-1].done
        assert done.cache == generation_v1.CACHE_STATUS_NONE
    elsewhere = (await caller.ask(alike, who="user:bob"))[-1].done
    assert elsewhere.cache == generation_v1.CACHE_STATUS_NONE
    caller.mesh.world.epoch += 1
    assert (await caller.ask(alike))[-1].done.cache == generation_v1.CACHE_STATUS_NONE


async def test_feedback_needs_an_answer_and_counts_once(caller: Caller) -> None:
    answer_id = (await caller.ask(QUESTION))[-1].done.answer_id
    request = generation_v1.RecordFeedbackRequest(
        answer_id=answer_id, rating=1, comment="good", request_id="feedback-1"
    )
    with context.acting_as(caller.signed()):
        await caller.mesh.stub.RecordFeedback(request)
        await caller.mesh.stub.RecordFeedback(request)
        request.request_id, request.answer_id = "feedback-2", "ans_unknown"
        with pytest.raises(NotFound) as raised:
            await caller.mesh.stub.RecordFeedback(request)
    assert raised.value.reason == "ANSWER_UNKNOWN"
    async with caller.mesh.database.project(caller.project) as connection:
        assert await connection.fetchval("SELECT count(*) FROM generation.feedback") == 1


async def test_feedback_on_an_answer_of_another_project_is_unknown(caller: Caller) -> None:
    answer_id = (await caller.ask(QUESTION))[-1].done.answer_id
    stranger = Caller(f"prj_{uuid4().hex}", caller.mesh)
    request = generation_v1.RecordFeedbackRequest(
        answer_id=answer_id, rating=-1, request_id="feedback-3"
    )
    with context.acting_as(stranger.signed()), pytest.raises(NotFound):
        await caller.mesh.stub.RecordFeedback(request)


async def test_a_purge_leaves_nothing_of_its_project_and_all_of_others(
    caller: Caller, postgres: Any
) -> None:
    other = Caller(f"prj_{uuid4().hex}", caller.mesh)
    for who in (caller, other):
        await who.ask(QUESTION, conversation_id="talk")
    request = generation_v1.PurgeProjectRequest(project_id=caller.project)
    with context.acting_as(caller.signed()), pytest.raises(PermissionDenied):
        await caller.mesh.stub.PurgeProject(request)
    with context.acting_as(other.signed(("admin",))), pytest.raises(PermissionDenied):
        await caller.mesh.stub.PurgeProject(request)
    receipt = await purged(caller)
    assert (receipt.answers_removed, receipt.conversations_removed) == (1, 1)
    assert await rows(postgres, caller.project) == {}
    kept = {"answer_cache": 1, "conversation": 1, "turn": 1, "answer": 1}
    assert await rows(postgres, other.project) == kept


async def test_an_answer_of_a_purged_project_is_given_and_not_stored(
    caller: Caller, postgres: Any
) -> None:
    await purged(caller)
    events = await caller.ask(QUESTION, conversation_id="talk")
    assert "thirty days" in events[-1].done.answer
    assert await rows(postgres, caller.project) == {}


async def test_a_purge_takes_what_is_being_recorded_when_it_begins(
    caller: Caller, postgres: Any
) -> None:
    waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = $1)"
    owner = await asyncpg.connect(postgres.owner_dsn)
    watch = await asyncpg.connect(postgres.owner_dsn)
    try:
        async with owner.transaction():
            await owner.execute("LOCK TABLE generation.turn IN SHARE MODE")
            answer = asyncio.create_task(caller.ask(QUESTION, conversation_id="talk"))
            await eventually(lambda: watch.fetchval(waiting, "relation"))
            purge = asyncio.create_task(purged(caller))
            await eventually(lambda: watch.fetchval(waiting, "advisory"))
        assert "thirty days" in (await answer)[-1].done.answer
        assert (await purge).answers_removed == 1
    finally:
        await owner.close()
        await watch.close()
    assert await rows(postgres, caller.project) == {}


async def purged(caller: Caller) -> Any:
    request = generation_v1.PurgeProjectRequest(project_id=caller.project)
    with context.acting_as(caller.signed(("admin",))):
        return await caller.mesh.stub.PurgeProject(request)


async def rows(postgres: Any, project: str) -> dict[str, int]:
    """Rows of a project by table, of tables that have any."""
    tables = ("answer_cache", "conversation", "turn", "answer", "feedback")
    connection = await asyncpg.connect(postgres.owner_dsn)
    try:
        count = "SELECT count(*) FROM generation.{} WHERE project_id = $1"
        found = {table: await connection.fetchval(count.format(table), project) for table in tables}
    finally:
        await connection.close()
    return {table: number for table, number in found.items() if number}
