"""Blocks of money and batches of spends in schema `usage`, against a real Postgres."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from tests.contract.usage_room import (
    MINUTE,
    budget,
    counted,
    draw,
    entry,
    lease,
    limit,
    reserve,
    returned,
    settle,
)

MOMENT = timedelta(microseconds=1)


async def test_parallel_leases_never_exceed_the_budget_together(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, project: str
) -> None:
    await limit(gateway, project, 10_000)
    attempts = [lease(spender, project, 70, 3_500) for _ in range(200)]
    answers = await asyncio.gather(*attempts, return_exceptions=True)
    leased = [answer[1] for answer in answers if isinstance(answer, tuple)]
    refused = [answer for answer in answers if not isinstance(answer, tuple)]
    assert {getattr(error, "sqlstate", error) for error in refused} == {"CM402"}
    assert 10_000 - 70 < sum(leased) <= 10_000
    assert await counted(gateway, project) == (0, sum(leased))


@pytest.mark.parametrize(
    ("allowed", "amount"),
    [
        (None, 500),  # no budget: as much as is wanted
        (1_000_000, 500),
        (20_000, 200),  # a hundredth of what is left
        (5_000, 50),
        (700, 10),  # near the end exactly what one call may cost
        (10, 10),
    ],
)
async def test_a_block_is_a_small_part_of_what_is_left_and_enough_for_one_call(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, project: str, allowed: int | None, amount: int
) -> None:
    await limit(gateway, project, allowed)
    assert (await lease(spender, project, 10, 500))[1] == amount


async def test_the_last_money_is_lent_to_the_last_cent(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, project: str
) -> None:
    await limit(gateway, project, 100)
    for _ in range(10):
        assert (await lease(spender, project, 10, 500))[1] == 10
    with pytest.raises(asyncpg.PostgresError) as caught:
        await lease(spender, project, 0, 0)
    assert caught.value.sqlstate == "CM402"


@pytest.mark.parametrize(("least", "most"), [(-1, 5), (None, 5), (5, None), (5, 4)])
async def test_a_nonsense_amount_is_refused(
    spender: asyncpg.Pool, project: str, least: int, most: int
) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await lease(spender, project, least, most)


async def test_what_is_drawn_is_spent_and_no_longer_reserved(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, project: str
) -> None:
    block, _ = await lease(spender, project, 10, 500)
    await draw(spender, [entry(project, 30, block), entry(project, 12, block)], [])
    assert await counted(gateway, project) == (42, 458)
    await draw(spender, [], [returned(project, block, back=400)])
    assert await counted(gateway, project) == (42, 58)
    await draw(spender, [entry(project, 8, block)], [returned(project, block, done=True)])
    assert await counted(gateway, project) == (50, 0)
    month = (await budget(gateway, project))["month"]
    [day] = await gateway.fetch(
        "SELECT * FROM usage.daily_of($1, $2::date - 1, $2::date + 32)", project, month
    )
    assert (day["requests"], day["input_tokens"], day["cost_micro_usd"]) == (3, 30, 50)


async def test_a_batch_counts_once_however_often_it_comes(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, project: str
) -> None:
    block, _ = await lease(spender, project, 10, 500)
    batch = uuid.uuid4()
    told = [entry(project, 30, block)], [returned(project, block, back=100)]
    await asyncio.gather(*(draw(spender, *told, batch) for _ in range(8)))
    await draw(spender, *told, batch)
    assert await counted(gateway, project) == (30, 370)


async def test_more_than_was_reserved_is_spent_and_nothing_is_reserved_below_zero(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, project: str
) -> None:
    block, _ = await lease(spender, project, 10, 10)
    other, _ = await lease(spender, project, 7, 7)
    await draw(spender, [entry(project, 25, block)], [returned(project, block, back=9)])
    assert await counted(gateway, project) == (25, 7)
    await draw(spender, [entry(project, 1, block)], [returned(project, block, done=True)])
    await draw(spender, [entry(project, 3, block)], [returned(project, block, back=-5, done=True)])
    assert await counted(gateway, project) == (29, 7)
    await draw(spender, [], [returned(project, other, done=True)])
    assert await counted(gateway, project) == (29, 0)


async def test_an_entry_without_a_block_is_spent_as_it_is_recorded(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, project: str
) -> None:
    await draw(spender, [entry(project, 4), entry(f"{project}_free", 0)], [])
    assert await counted(gateway, project) == (4, 0)
    assert await counted(gateway, f"{project}_free") == (0, 0)


async def test_a_block_that_was_swept_or_forgotten_still_counts_what_was_spent(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, owner: Any, project: str
) -> None:
    block, _ = await lease(spender, project, 10, 500, MOMENT)
    kept, _ = await lease(spender, project, 10, 10)
    assert await gateway.fetchval("SELECT usage.sweep()") >= 1
    assert await counted(gateway, project) == (0, 10)
    late = [returned(project, block, back=20, done=True)]
    await draw(spender, [entry(project, 30, block)], late)
    assert await counted(gateway, project) == (30, 10)
    await owner.execute(
        "UPDATE usage.reservation SET released_at = now() - interval '2 days', "
        "settled_at = now() - interval '2 days' WHERE id = $1",
        block,
    )
    await gateway.fetchval("SELECT usage.sweep()")
    assert not await owner.fetchval("SELECT count(*) FROM usage.reservation WHERE id = $1", block)
    await draw(spender, [entry(project, 5, block)], late)
    assert await counted(gateway, project) == (35, 10)
    await draw(spender, [], [returned(project, kept, done=True)])


async def test_a_block_swept_in_part_gives_back_what_was_left_of_it(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, project: str
) -> None:
    block, _ = await lease(spender, project, 10, 500, MOMENT)
    await draw(spender, [entry(project, 30, block)], [])
    await gateway.fetchval("SELECT usage.sweep()")
    assert await counted(gateway, project) == (30, 0)


async def test_what_was_drawn_from_a_block_of_another_month_is_spent_in_that_month(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, owner: Any, project: str
) -> None:
    block, _ = await lease(spender, project, 10, 500)
    for table in ("reservation", "month"):
        await owner.execute(
            f"UPDATE usage.{table} SET month = month - interval '1 month' WHERE project_id = $1",
            project,
        )
    done = [returned(project, block, done=True)]
    await draw(spender, [entry(project, 30, block), entry(project, 4)], done)
    rows = await owner.fetch(
        "SELECT spent_micro_usd AS spent, reserved_micro_usd AS reserved FROM usage.month "
        "WHERE project_id = $1 ORDER BY month",
        project,
    )
    assert [tuple(row) for row in rows] == [(30, 0), (4, 0)]


@pytest.mark.parametrize("told", ["entry", "block"])
async def test_a_block_of_another_project_is_refused_and_nothing_of_its_batch_is_booked(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, project: str, told: str
) -> None:
    block, _ = await lease(spender, project, 10, 500)
    thief = f"{project}_other"
    entries = [entry(thief, 3)] + ([entry(thief, 5, block)] if told == "entry" else [])
    blocks = [returned(thief, block, back=100, done=True)] if told == "block" else []
    with pytest.raises(asyncpg.PostgresError) as caught:
        await draw(spender, entries, blocks)
    assert caught.value.sqlstate == "CM404"
    assert await counted(gateway, project) == (0, 500)
    assert await counted(gateway, thief) == (0, 0)


async def test_a_purge_leaves_nothing_of_blocks_and_of_what_is_told_later(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, owner: Any, project: str
) -> None:
    block, _ = await lease(spender, project, 10, 500)
    await draw(spender, [entry(project, 30, block)], [])
    await gateway.fetchval("SELECT usage.purge($1)", project)
    other = f"{project}_other"
    told = [entry(project, 30, block), entry(other, 2)]
    await draw(spender, told, [returned(project, block, done=True)])
    for table in ("budget", "month", "reservation", "ledger", "daily"):
        count = await owner.fetchval(
            f"SELECT count(*) FROM usage.{table} WHERE project_id = $1", project
        )
        assert count == 0, table
    assert await counted(gateway, other) == (2, 0)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await lease(spender, project, 1, 1)
    assert caught.value.sqlstate == "CM402"


async def test_batches_are_forgotten_after_a_day(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, owner: Any, project: str
) -> None:
    old, young = uuid.uuid4(), uuid.uuid4()
    for batch in (old, young):
        await draw(spender, [entry(project, 1)], [], batch)
    await owner.execute(
        "UPDATE usage.batch SET at = now() - interval '25 hours' WHERE id = $1", old
    )
    await gateway.fetchval("SELECT usage.sweep()")
    left = await owner.fetch("SELECT id FROM usage.batch WHERE id = ANY ($1)", [old, young])
    assert [row["id"] for row in left] == [young]


async def test_whoever_spends_at_once_never_waits_for_another_in_a_circle(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, project: str
) -> None:
    """Draws of several projects, in any order, among settlements, records, sweeps and a purge."""
    lots = random.Random(7)
    projects = [f"{project}_{number}" for number in range(4)]

    async def old_release(name: str) -> int:
        await settle(spender, await reserve(spender, name, 9), name, 3)
        entries = [entry(each, 1) for each in lots.sample(projects, 4)]
        await spender.execute("SELECT usage.record($1::jsonb)", json.dumps(entries))
        return 3 + len(entries)

    async def new_release() -> int:
        names = lots.choices(projects, k=6)
        blocks = [(name, (await lease(spender, name, 5, 50))[0]) for name in names]
        lots.shuffle(blocks)
        entries = [entry(name, 2, block) for name, block in blocks]
        halfway = [returned(name, block, back=10) for name, block in blocks]
        await asyncio.gather(*(draw(spender, entries, halfway) for _ in range(3)))
        await draw(spender, entries, [returned(name, block, done=True) for name, block in blocks])
        return 4 * 2 * len(entries)

    async def sweep() -> int:
        await lease(spender, lots.choice(projects), 5, 5, MOMENT)
        await gateway.fetchval("SELECT usage.sweep()")
        return 0

    async def purge(name: str) -> int:
        block, _ = await lease(spender, name, 5, 50)
        another, _ = await lease(spender, name, 5, 50)
        told = [entry(name, 2, another), entry(name, 2, block)]
        leaving = gateway.fetchval("SELECT usage.purge($1)", name)
        await asyncio.gather(draw(spender, told, []), leaving, draw(spender, told, []))
        return 0

    work: list[Any] = []
    for number in range(30):
        work += [old_release(lots.choice(projects)), new_release(), sweep()]
        work.append(purge(f"{project}_gone_{number}"))
    spent = sum(await asyncio.gather(*work))
    await gateway.fetchval("SELECT usage.sweep()")
    sums = [await counted(gateway, name) for name in projects]
    assert sum(reserved for _, reserved in sums) == 0
    assert sum(cost for cost, _ in sums) == spent


async def test_a_spender_cannot_touch_the_batches(spender: asyncpg.Pool) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await spender.execute("SELECT * FROM usage.batch")


async def test_a_process_of_the_release_before_settles_beside_blocks(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, project: str
) -> None:
    await limit(gateway, project, 10_000)
    block, amount = await lease(spender, project, 10, 500)
    reservation = await reserve(spender, project, 60, MINUTE)
    assert await counted(gateway, project) == (0, 60 + amount)
    await settle(spender, reservation, project, 40)
    await draw(spender, [entry(project, 5, block)], [returned(project, block, done=True)])
    assert await counted(gateway, project) == (45, 0)
