"""A second embedding space beside the active one: filled, paused, switched to, standing by."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meshkit.errors import BudgetExhausted, NotFound, Precondition, Unavailable
from services.retrieval import garbage
from services.retrieval.filling.registry import SpaceState
from services.retrieval.filling.work import Due, LeaseLost
from services.retrieval.search import Query
from services.retrieval.spaces import SpaceTables
from services.retrieval.upstream import QueryVector
from tests.contract.filling_room import (
    LONGER,
    OLD,
    SAME,
    TEXTS_A_CALL,
    Filling,
    model_vector,
    open_filling,
    until,
)
from tests.contract.retrieval_room import project_id
from tests.contract.service_process import ROOT

DOWN = Unavailable("PROVIDER_UNAVAILABLE", "away")


@pytest.fixture
async def opened(
    postgres: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Filling]:
    """Two spaces, the first active; a test names others with `indirect`."""
    options = {"spaces": (OLD, SAME), **getattr(request, "param", {})}
    async with open_filling(postgres.alone, tmp_path, *options.pop("spaces"), **options) as filling:
        yield filling


def texts(count: int, word: str = "pump") -> list[str]:
    return [f"{word} number {n} of {count}" for n in range(count)]


async def found(filling: Filling, project: str, query: str) -> tuple[list[str], list[str]]:
    answer = await filling.room.search(project, Query(query, rerank=False))
    return [hit.chunk.text for hit in answer.hits[:1]], list(answer.degraded)


@pytest.mark.parametrize(
    "opened", [{"spaces": (OLD, SAME)}, {"spaces": (OLD, LONGER)}], indirect=True
)
async def test_a_space_is_filled_beside_the_active_one_and_switched_to(opened: Filling) -> None:
    new = opened.models.spaces_set[1]
    here, there = project_id(), project_id()
    await opened.upload(here, "doc_1", texts(18))
    await opened.upload(here, "doc_2", texts(5, "valve"))
    await opened.upload(there, "doc_1", texts(3, "boiler"))
    in_flight = await opened.models.embed_query("boiler number 1", seconds=1, bypass_cache=True)
    opened.models.gate.clear()
    await opened.lives.build(new)
    async with opened.filling(), opened.asking(there, "boiler number 1 of 3") as asked:
        await opened.models.entered.wait()
        # In the middle of it: an upload, a deletion, a new version, and questions.
        await opened.upload(there, "doc_3", texts(2, "fan"))
        await opened.room.corpus.remove(here, "doc_2", 1, "request-1")
        await opened.upload(here, "doc_1", texts(6, "gasket"), version=2)
        await opened.room.settle()
        assert await found(opened, there, "fan number 1") == (["fan number 1 of 2"], [])
        with pytest.raises(Precondition, match="SPACE_INCOMPLETE"):
            async with asyncio.timeout(60):
                await opened.lives.switch(new, "too-early")
        opened.models.gate.set()
        await opened.filled(new)
        active, previous, checked = await opened.lives.switch(new, "switch-1")
        assert (active, previous, checked) == (new, OLD, 11)
        # The same request again changes nothing.
        assert (await opened.lives.switch(new, "switch-1"))[:2] == (new, OLD)
        assert await found(opened, there, "fan number 1") == (["fan number 1 of 2"], [])
        await asked.by(new)
        # A question that was embedded before the switch is compared in its own space.
        opened.room.spaces.forget(OLD)
        late = await opened.room.search(
            there, Query("boiler number 1", vector=in_flight, rerank=False)
        )
        assert (late.space, list(late.degraded)) == (OLD, ["dense_standby"])
        assert late.hits[0].signals.dense_similarity == pytest.approx(
            float(in_flight.vector @ model_vector(OLD, late.hits[0].chunk.text)), abs=2e-3
        )
        await opened.upload(there, "doc_4", texts(3, "belt"))
        await opened.filled(OLD)
    live = await opened.live_texts()
    assert live == {*texts(6, "gasket"), *texts(3, "boiler"), *texts(2, "fan"), *texts(3, "belt")}
    for space in (OLD, new):
        assert set(await opened.vectors(space)) == live
        assert await opened.mixed(space) == []
    # Of the questions asked all the while none missed its text or was told of a failure, and
    # each was compared with vectors of its own model.
    assert asked.wrong == []
    # Nothing was paid for twice, not even what was deleted meanwhile.
    assert set(opened.models.texts.values()) == {1}


async def test_a_pause_keeps_what_is_under_way_and_a_resumption_pays_for_the_rest_alone(
    opened: Filling,
) -> None:
    await opened.upload(project_id(), "doc_1", texts(30))
    opened.models.gate.clear()
    await opened.lives.build(SAME)

    async def lease() -> Any:
        return await opened.room.owner.fetchval(
            "SELECT lease_expires FROM retrieval.space_table WHERE space = $1", SAME
        )

    async with opened.filling(lease=1.0):
        await opened.models.entered.wait()
        assert (await opened.lives.pause(SAME)).paused
        for _ in range(2):
            # At the second look at the lease after the pause, it has seen it at the first.
            before = await lease()

            async def looked(before: Any = before) -> bool:
                return bool(await lease() != before)

            await until(looked)
        opened.models.gate.set()

        async def idle() -> bool:
            return await lease() is None

        await until(idle)
        # Two calls were under way; they are kept, and no other was begun.
        assert len(await opened.vectors(SAME)) == 2 * TEXTS_A_CALL
        assert sum(opened.models.texts.values()) == 2 * TEXTS_A_CALL
        await opened.lives.build(SAME)
        await opened.filled(SAME)
    assert set(opened.models.texts.values()) == {1}
    assert set(await opened.vectors(SAME)) == set(texts(30))


async def test_two_fillers_never_write_the_same_vector(opened: Filling) -> None:
    for n in range(4):
        await opened.upload(project_id(), "doc_1", texts(10, f"word{n}"))
    await opened.lives.build(SAME)
    async with opened.filling("a", "b", "c"):
        await opened.filled(SAME)
    assert set(opened.models.texts.values()) == {1}
    assert len(opened.models.texts) == 40


async def test_a_filler_that_was_frozen_writes_nothing(opened: Filling) -> None:
    project = project_id()
    await opened.upload(project, "doc_1", texts(3))
    await opened.lives.build(SAME)
    table = await opened.room.spaces.find(SAME)
    assert table is not None
    frozen, other = opened.filler("frozen")._work, opened.filler("other")._work
    due = Due(table.number, SAME)
    lease = await frozen.claim(due)
    assert lease is not None
    assert await other.claim(due) is None
    [versions] = await frozen.next(lease, 10)
    chunks = await frozen.missing(lease, versions, 10)
    await opened.room.owner.execute(
        "UPDATE retrieval.space_table SET lease_expires = now() - interval '1 s'"
    )
    assert await other.claim(due) is not None
    wrong = model_vector(OLD, "anything")[None].repeat(len(chunks), axis=0)
    with pytest.raises(LeaseLost):
        await frozen.write(lease, project, chunks, wrong)
    assert await opened.vectors(SAME) == {}


async def test_a_chunk_deleted_while_its_vector_was_made_leaves_nothing(opened: Filling) -> None:
    project = project_id()
    await opened.upload(project, "doc_1", texts(3))
    await opened.upload(project, "doc_2", texts(2, "valve"))
    opened.models.gate.clear()
    await opened.lives.build(SAME)
    async with opened.filling():
        await opened.models.entered.wait()
        await opened.room.corpus.remove(project, "doc_1", 1, "request-1")
        await opened.room.settle()
        opened.models.gate.set()
        await opened.filled(SAME)
    assert set(await opened.vectors(SAME)) == set(texts(2, "valve"))
    assert await opened.mixed(SAME) == []


async def test_garbage_waits_for_a_vector_that_is_being_written(opened: Filling) -> None:
    """The order that left a vector without a chunk before chunks were locked first."""
    project = project_id()
    await opened.upload(project, "doc_1", texts(2))
    await opened.lives.build(SAME)
    table = await opened.room.spaces.find(SAME)
    assert table is not None
    await opened.room.corpus.remove(project, "doc_1", 1, "request-1")
    async with opened.room.database.project(project) as connection:
        await connection.execute(
            "SELECT FROM retrieval.chunk WHERE project_id = $1 FOR KEY SHARE", project
        )
        collecting = asyncio.create_task(garbage.collect(opened.room.database, 100))

        async def waits() -> bool:
            return bool(
                await opened.room.owner.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                    "AND query LIKE '%collect_garbage%' AND datname = current_database()"
                )
            )

        await until(waits)
        await connection.execute(
            f"INSERT INTO retrieval.dense_{table.number} SELECT id, project_id, document_id, "
            "version, $2::real[]::halfvec FROM retrieval.chunk WHERE project_id = $1",
            project,
            model_vector(SAME, "pump").tolist(),
        )
    await collecting
    await opened.room.settle()
    assert await opened.vectors(SAME) == {}


async def test_a_text_that_no_call_can_take_holds_up_no_other(opened: Filling) -> None:
    project = project_id()
    await opened.upload(project, "doc_1", texts(9))
    await opened.upload(project, "doc_2", ["a cursed text", *texts(3, "valve")])
    opened.models.refuses = "cursed"
    await opened.lives.build(SAME)

    async def stuck() -> bool:
        [space] = await opened.lives.describe(SAME)
        return space.stuck == space.pending > 0

    async with opened.filling():
        await until(stuck)
        [space] = await opened.lives.describe(SAME)
        assert (space.pending, space.stuck) == (4, 4)
        assert space.trouble == "VECTOR_INVALID"
        assert set(await opened.vectors(SAME)) == set(texts(9))
        opened.models.refuses = ""
        # Asked for again it is tried again at once.
        await opened.lives.build(SAME)
        await opened.filled(SAME)
    assert len(await opened.vectors(SAME)) == 13


async def test_a_project_without_money_waits_and_others_do_not(opened: Filling) -> None:
    poor, rich = project_id(), project_id()
    await opened.upload(poor, "doc_1", texts(3))
    await opened.upload(rich, "doc_1", texts(3, "valve"))
    embed = opened.models.embed

    async def charge(project: str, space: Any, batch: Any) -> Any:
        if project == poor:
            raise BudgetExhausted("BUDGET_EXHAUSTED", "no money")
        return await embed(project, space, batch)

    opened.models.embed = charge  # type: ignore[method-assign]
    await opened.lives.build(SAME)

    async def only_the_poor_wait() -> bool:
        [space] = await opened.lives.describe(SAME)
        return (space.pending, space.stuck) == (3, 3)

    async with opened.filling():
        await until(only_the_poor_wait)
    assert set(await opened.vectors(SAME)) == set(texts(3, "valve"))
    assert (await opened.lives.describe(SAME))[0].trouble == "BUDGET_EXHAUSTED"


async def test_filling_waits_while_the_provider_is_away_and_says_why(opened: Filling) -> None:
    await opened.upload(project_id(), "doc_1", texts(6))
    opened.models.error = DOWN
    await opened.lives.build(SAME)

    async def troubled() -> bool:
        return (await opened.lives.describe(SAME))[0].trouble == "PROVIDER_UNAVAILABLE"

    async with opened.filling():
        await until(troubled)
        opened.models.error = None
        await opened.filled(SAME)

        async def cleared() -> bool:
            return (await opened.lives.describe(SAME))[0].trouble == ""

        await until(cleared)
    assert set(opened.models.texts.values()) == {1}


async def test_a_switch_counts_every_vector_and_mends_what_is_missing(opened: Filling) -> None:
    await opened.upload(project_id(), "doc_1", texts(6))
    await opened.lives.build(SAME)
    async with opened.filling():
        await opened.filled(SAME)
        table = await opened.room.spaces.find(SAME)
        assert table is not None
        await opened.room.owner.execute(
            f"DELETE FROM retrieval.dense_{table.number} WHERE chunk_key = "
            f"(SELECT min(chunk_key) FROM retrieval.dense_{table.number})"
        )
        with pytest.raises(Precondition, match="1 of 6 live chunks") as refused:
            await opened.lives.switch(SAME, "switch-1")
        assert refused.value.reason == "SPACE_INCOMPLETE"
        assert (await opened.models.spaces())[0].name == OLD
        await opened.filled(SAME)
        await opened.lives.switch(SAME, "switch-2")
    assert (await opened.models.spaces())[0].name == SAME


async def test_what_was_embedded_before_a_switch_is_ready_only_in_the_new_space(
    opened: Filling,
) -> None:
    project = project_id()
    await opened.upload(project, "doc_1", texts(2))
    await opened.lives.build(SAME)
    async with opened.filling():
        await opened.filled(SAME)
        await opened.lives.switch(SAME, "switch-1")
    # Nobody fills now: the version stays hidden rather than be live without its vectors.
    with pytest.raises(Unavailable, match="VECTORS_PENDING") as pending:
        await opened.upload(project, "doc_2", texts(3, "valve"), space=OLD)
    assert pending.value.retry_after
    assert await opened.live_texts() == set(texts(2))
    async with opened.filling():

        async def activated() -> bool:
            try:
                await opened.room.activate(project, "doc_2", 3)
            except Unavailable:
                return False
            return True

        await until(activated)
    assert await found(opened, project, "valve number 2") == (["valve number 2 of 3"], [])
    assert await opened.mixed(SAME) == await opened.mixed(OLD) == []
    assert len(await opened.vectors(SAME)) == 5


@pytest.mark.parametrize("opened", [{"unasked": 10}], indirect=True)
async def test_a_second_space_of_a_small_corpus_stands_by_without_being_asked(
    opened: Filling,
) -> None:
    project = project_id()
    keeping = asyncio.create_task(opened.lives.keep(0.01, 0.05))
    try:
        async with opened.filling():
            await opened.upload(project, "doc_1", texts(3))

            async def stands_by() -> bool:
                [space] = await opened.lives.describe(SAME)
                return space.state is SpaceState.STANDBY and space.pending == 0

            await until(stands_by)
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
    assert await opened.mixed(SAME) == []
    assert set(await opened.vectors(SAME)) == set(texts(3))


@pytest.mark.parametrize("opened", [{"unasked": 2}], indirect=True)
async def test_a_large_corpus_is_not_embedded_again_unasked(opened: Filling) -> None:
    await opened.lives.drop(SAME)
    await opened.upload(project_id(), "doc_1", texts(3))
    await opened.models.set_state(SAME, SpaceState.BUILDING)
    async with opened.filling():
        await opened.lives.agree()
        [space] = await opened.lives.describe(SAME, estimate=True)
    assert (space.state, space.followed, space.pending) == (SpaceState.BUILDING, False, 3)
    assert space.estimate is not None
    assert space.estimate.tokens == 15
    assert space.estimate.micro_usd == 3
    assert space.estimate.bytes > 0
    assert opened.models.texts == {}


async def test_a_standby_space_answers_for_the_projects_it_is_complete_for(
    opened: Filling,
) -> None:
    whole, partial = project_id(), project_id()
    await opened.upload(whole, "doc_1", texts(3))
    await opened.upload(partial, "doc_1", texts(3, "valve"))
    await opened.lives.build(SAME)
    async with opened.filling():
        await opened.filled(SAME)
    await opened.upload(partial, "doc_2", texts(2, "fan"))

    def standby(query: str) -> Query:
        vector = QueryVector(model_vector(SAME, query), SAME, version="v-new")
        return Query(query, vector=vector, rerank=False)

    answer = await opened.room.search(whole, standby("pump number 1"))
    assert list(answer.degraded) == ["dense_standby"]
    assert answer.hits[0].signals.dense_rank == 1
    assert answer.hits[0].signals.dense_similarity == pytest.approx(
        float(model_vector(SAME, "pump number 1") @ model_vector(SAME, "pump number 1 of 3")),
        abs=2e-3,
    )
    answer = await opened.room.search(partial, standby("valve number 1"))
    assert list(answer.degraded) == ["dense"]
    assert all(hit.signals.dense_rank == 0 for hit in answer.hits)


async def test_a_vector_of_another_model_is_refused_wherever_it_comes_from(
    opened: Filling,
) -> None:
    project = project_id()
    await opened.upload(project, "doc_1", texts(2))
    vector = model_vector(SAME, "pump")
    with pytest.raises(Precondition, match="v-old") as given:
        await opened.room.search(
            project, Query("pump", vector=QueryVector(vector, OLD, version="v-new"), rerank=False)
        )
    assert given.value.reason == "SPACE_MISMATCH"
    assert "v-new" in given.value.detail
    embed_query = opened.models.embed_query

    async def other_model(text: str, **more: Any) -> QueryVector:
        return replace(await embed_query(text, **more), vector=vector, version="v-new")

    opened.models.embed_query = other_model  # type: ignore[method-assign]
    assert await found(opened, project, "pump number 1") == (["pump number 1 of 2"], ["dense"])
    tables = SpaceTables(opened.room.database)
    with pytest.raises(Precondition, match="SPACE_MISMATCH"):
        await tables.ensure(OLD, "v-new")
    # Nor is a space filled by a model that is not the one it was registered with.
    embed = opened.models.embed

    async def other_build(project: str, space: Any, batch: Any) -> Any:
        vectors, _ = await embed(project, space, batch)
        return vectors, "v-newer"

    opened.models.embed = other_build  # type: ignore[method-assign]
    await opened.lives.build(SAME)

    async def refused() -> bool:
        return (await opened.lives.describe(SAME))[0].trouble == "SPACE_MISMATCH"

    async with opened.filling():
        await until(refused)
    assert await opened.vectors(SAME) == {}


async def test_a_dropped_space_leaves_nothing_and_its_number_is_never_anothers(
    opened: Filling,
) -> None:
    project, owner = project_id(), opened.room.owner
    await opened.upload(project, "doc_1", texts(3))
    await opened.lives.build(SAME)
    async with opened.filling():
        await opened.filled(SAME)
    first = await opened.room.spaces.find(SAME)
    assert first is not None
    with pytest.raises(Precondition, match="SPACE_IN_USE"):
        await opened.lives.drop(OLD)
    assert await opened.lives.drop(SAME) > 0
    assert await owner.fetchval(f"SELECT to_regclass('retrieval.dense_{first.number}')") is None
    left = "SELECT count(*) FROM pg_proc WHERE proname LIKE $1"
    assert await owner.fetchval(left, f"%\\_{first.number}") == 0
    assert await owner.fetchval("SELECT count(*) FROM retrieval.space_work") == 0
    assert await found(opened, project, "pump number 1") == (["pump number 1 of 3"], [])
    # Built again it starts from nothing, in a table of its own.
    await opened.lives.build(SAME)
    async with opened.filling():
        await opened.filled(SAME)
    again = await opened.room.spaces.find(SAME)
    assert again is not None
    assert again.number > first.number
    assert set(opened.models.texts.values()) == {2}


async def test_a_purge_takes_the_work_with_it(opened: Filling) -> None:
    project = project_id()
    await opened.upload(project, "doc_1", texts(3))
    await opened.lives.build(SAME)
    await opened.room.corpus.purge(project)
    assert await opened.room.owner.fetchval("SELECT count(*) FROM retrieval.space_work") == 0
    async with opened.filling():
        await opened.filled(SAME)
    assert opened.models.texts == {}


async def test_steps_that_make_no_sense_are_refused(opened: Filling) -> None:
    for step in (opened.lives.build, opened.lives.drop, opened.lives.describe):
        with pytest.raises(NotFound, match="local/other@24"):
            await step("local/other@24")
    with pytest.raises(Precondition, match="SPACE_ALREADY_ACTIVE"):
        await opened.lives.build(OLD)
    with pytest.raises(NotFound, match="SPACE_UNKNOWN"):
        await opened.lives.pause(SAME)
    with pytest.raises(Precondition, match="SPACE_INCOMPLETE"):
        await opened.lives.switch(SAME, "request-1")


async def test_the_runtime_role_cannot_give_itself_a_duty(opened: Filling) -> None:
    async with opened.room.database.connection() as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("UPDATE retrieval.space_table SET duty = 'required'")


async def test_kill_9_of_the_filling_process_loses_the_calls_under_way_and_nothing_else(
    opened: Filling, postgres: Any, tmp_path: Path
) -> None:
    paid, held = tmp_path / "paid", tmp_path / "held"
    paid.touch()
    held.touch()
    dsns = {name: postgres.alone.dsn(name) for name in ("embedding", "retrieval")}
    command = (sys.executable, "-m", "tests.contract.filling_process")

    async def started() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *command, json.dumps(dsns), str(paid), str(held), cwd=ROOT
        )

    await opened.upload(project_id(), "doc_1", texts(40))
    await opened.lives.build(SAME)
    process = await started()
    try:

        async def in_the_middle() -> bool:
            # Two calls are written, and two more were paid for when it is killed.
            return len(paid.read_text().splitlines()) == 4 * TEXTS_A_CALL and (
                len(await opened.vectors(SAME)) == 2 * TEXTS_A_CALL
            )

        await until(in_the_middle)
        process.kill()
        await process.wait()
        held.unlink()
        process = await started()
        await opened.filled(SAME)
    finally:
        process.kill()
        await process.wait()
    counts = Counter(json.loads(line) for line in paid.read_text().splitlines())
    assert set(counts) == set(texts(40))
    # What had been written was not paid for again.
    assert sum(counts.values()) == 40 + 2 * TEXTS_A_CALL
    assert set(await opened.vectors(SAME)) == set(texts(40))
    assert await opened.mixed(SAME) == []
