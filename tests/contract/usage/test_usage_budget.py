"""What schema `usage` promises to everyone who spends, against a real Postgres."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from tests.contract.usage_room import MINUTE, budget, limit, reserve, settle


async def test_parallel_reservations_never_exceed_the_budget(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, project: str
) -> None:
    await limit(gateway, project, 1_000)

    attempts = [reserve(spender, project, 70) for _ in range(60)]
    answers = await asyncio.gather(*attempts, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, asyncpg.PostgresError)]
    assert len(answers) - len(refused) == 14
    assert {error.sqlstate for error in refused} == {"CM402"}
    assert (await budget(gateway, project))["reserved_micro_usd"] == 14 * 70


async def test_an_exhausted_budget_refuses_with_its_own_code(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, project: str
) -> None:
    await limit(gateway, project, 100)
    reservation = await reserve(spender, project, 100)
    await settle(spender, reservation, project, 100)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await reserve(spender, project, 1)
    assert caught.value.sqlstate == "CM402"


async def test_reserving_nothing_asks_whether_anything_may_be_spent(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, project: str
) -> None:
    await limit(gateway, project, 100)
    await settle(spender, await reserve(spender, project, 0), project, 100)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await reserve(spender, project, 0)
    assert caught.value.sqlstate == "CM402"


async def test_a_project_without_a_budget_is_not_limited(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, project: str
) -> None:
    assert await reserve(spender, project, 10**12)
    await limit(gateway, project, 5)
    await limit(gateway, project, None)
    assert await reserve(spender, project, 10**12)


async def test_settling_frees_the_reservation_and_books_what_was_spent(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, project: str
) -> None:
    reservation = await reserve(spender, project, 500)
    await settle(spender, reservation, project, 123)
    row = await budget(gateway, project)
    assert (row["spent_micro_usd"], row["reserved_micro_usd"]) == (123, 0)
    days = await gateway.fetch(
        "SELECT * FROM usage.daily_of($1, $2::date - 1, $2::date + 32)", project, row["month"]
    )
    assert [(d["model"], d["requests"], d["cost_micro_usd"]) for d in days] == [("m", 1, 123)]


async def test_settling_twice_counts_once(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, project: str
) -> None:
    reservation = await reserve(spender, project, 500)
    await asyncio.gather(*(settle(spender, reservation, project, 40) for _ in range(8)))
    row = await budget(gateway, project)
    assert (row["spent_micro_usd"], row["reserved_micro_usd"]) == (40, 0)


async def test_an_orphan_is_swept_and_a_late_settlement_still_counts(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, project: str
) -> None:
    await limit(gateway, project, 100)
    orphan = await reserve(spender, project, 100, timedelta(microseconds=1))
    kept = await reserve(spender, f"{project}_other", 10)
    assert await gateway.fetchval("SELECT usage.sweep()") >= 1
    assert (await budget(gateway, project))["reserved_micro_usd"] == 0
    assert (await budget(gateway, f"{project}_other"))["reserved_micro_usd"] == 10
    await settle(spender, orphan, project, 30)
    row = await budget(gateway, project)
    assert (row["spent_micro_usd"], row["reserved_micro_usd"]) == (30, 0)
    await settle(spender, kept, f"{project}_other", 0)


async def test_a_reservation_settles_only_for_its_own_project(
    spender: asyncpg.Pool, project: str
) -> None:
    reservation = await reserve(spender, project, 5)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await settle(spender, reservation, f"{project}_other", 5)
    assert caught.value.sqlstate == "CM404"


@pytest.mark.parametrize("amount", [-1, None])
async def test_a_nonsense_amount_is_refused(
    spender: asyncpg.Pool, project: str, amount: int | None
) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await spender.fetchval("SELECT usage.reserve($1, $2, $3)", project, amount, MINUTE)


async def test_buffered_entries_are_summed_by_day_and_model(
    spender: asyncpg.Pool, gateway: asyncpg.Pool, project: str
) -> None:
    entry = {
        "project_id": project,
        "stage": "embed",
        "provider": "local",
        "model": "bge",
        "input_tokens": 7,
        "output_tokens": 0,
        "cost_micro_usd": 0,
        "request_id": "req_1",
    }
    entries = [entry, entry, {**entry, "model": "other", "cost_micro_usd": 3}]
    for _ in range(2):
        await spender.execute("SELECT usage.record($1::jsonb)", json.dumps(entries))
    row = await budget(gateway, project)
    assert row["spent_micro_usd"] == 6
    days = await gateway.fetch(
        "SELECT * FROM usage.daily_of($1, $2::date - 1, $2::date + 32)", project, row["month"]
    )
    sums = {d["model"]: (d["requests"], d["input_tokens"], d["cost_micro_usd"]) for d in days}
    assert sums == {"bge": (4, 28, 0), "other": (2, 14, 6)}


async def test_a_purge_leaves_nothing_and_what_was_under_way_leaves_nothing_either(
    postgres: Any, spender: asyncpg.Pool, gateway: asyncpg.Pool, project: str
) -> None:
    await limit(gateway, project, 1_000)
    done = await reserve(spender, project, 10)
    await settle(spender, done, project, 10)
    under_way = await reserve(spender, project, 10)
    assert await gateway.fetchval("SELECT usage.purge($1)", project) == 1
    await settle(spender, under_way, project, 10)
    late = {"project_id": project, "stage": "embed", "provider": "local", "model": "m"}
    await spender.execute("SELECT usage.record($1::jsonb)", json.dumps([late]))
    owner = await asyncpg.connect(postgres.owner_dsn)
    try:
        for table in ("budget", "month", "reservation", "ledger", "daily"):
            count = await owner.fetchval(
                f"SELECT count(*) FROM usage.{table} WHERE project_id = $1", project
            )
            assert count == 0, table
    finally:
        await owner.close()


async def test_a_spender_cannot_touch_the_tables_nor_the_budget(
    spender: asyncpg.Pool, project: str
) -> None:
    for statement in (
        "SELECT * FROM usage.ledger",
        "UPDATE usage.month SET spent_micro_usd = 0",
        "SELECT usage.set_budget('p', 1)",
        "SELECT usage.purge('p')",
        "SELECT usage.book('[]'::jsonb)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await spender.execute(statement)
