"""A process that spends: what it asks of Postgres, and what is counted there in the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from meshkit.context import RequestContext, acting_as
from meshkit.database.pool import Database, unavailable
from meshkit.errors import BudgetExhausted, Unavailable
from meshkit.usage import Budget, Spend, Used
from meshkit.usage.blocks import BLOCK_SECONDS
from meshkit.usage.budget import BLOCK_SPENDS
from tests.contract.service_process import eventually
from tests.contract.usage_room import counted, limit

ESTIMATE = 100
PLENTY = 1_000 * BLOCK_SPENDS * ESTIMATE
"""So much that every block is as large as one can be."""


@dataclass
class Line:
    """The way to Postgres: counted, and as bad as a test wants it."""

    database: Database
    trips: int = 0
    cut: bool = False
    losing: bool = False
    """Whether what is asked is done and the reply is lost."""
    open: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when somebody waits for the line to be open."""

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        self.reached.set()
        await self.open.wait()
        if self.cut:
            raise unavailable()
        self.trips += 1
        async with self.database.connection() as connection:
            yield connection
        if self.losing:
            raise unavailable()


@dataclass
class Purse:
    """The budget of one process, asked for one project."""

    budget: Budget
    line: Line
    project: str
    now: float = 0.0

    async def spend(
        self,
        cost: int = 30,
        *,
        estimate: int = ESTIMATE,
        until: asyncio.Event | None = None,
        begun: asyncio.Event | None = None,
        request: str = "req_1",
    ) -> None:
        """Spends, once `until` is set."""
        async with self.open(estimate, request=request) as spend:
            spend.settle(input_tokens=10, output_tokens=20, cost_micro_usd=cost)
            if begun is not None:
                begun.set()
            if until is not None:
                await until.wait()

    @asynccontextmanager
    async def open(
        self, estimate: int = ESTIMATE, *, request: str = "req_1"
    ) -> AsyncIterator[Spend]:
        scopes = frozenset({"read"})
        caller = RequestContext(self.project, (), scopes, "key", request, "gateway", 2e9, "")
        spend = self.budget.spend(
            estimate_micro_usd=estimate, stage="generate", provider="gemini", model="m"
        )
        with acting_as(caller):
            async with spend as under_way:
                yield under_way

    async def spending(self, **more: Any) -> tuple[asyncio.Task[None], asyncio.Event]:
        """A spend under way, and what ends it."""
        begun, until = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(self.spend(until=until, begun=begun, **more))
        await begun.wait()
        return task, until


@pytest.fixture
async def database(postgres: Any) -> AsyncIterator[Database]:
    opened = await Database.connect(postgres.dsn("generation"), role="citemesh_generation", size=4)
    yield opened
    await opened.close()


def process(database: Database, project: str) -> Purse:
    """A process that spends for a project; its clock stands still unless a test moves it."""
    line = Line(database)
    line.open.set()
    wired: Any = line
    purse = Purse(Budget(wired, clock=lambda: purse.now), line, project)
    return purse


@pytest.fixture
def purse(database: Database, project: str) -> Purse:
    return process(database, project)


async def ledger(owner: Any, project: str) -> list[tuple[str, int]]:
    """Provider and cost of each line; lines of one batch have no order."""
    rows = await owner.fetch(
        "SELECT provider, cost_micro_usd FROM usage.ledger WHERE project_id = $1", project
    )
    return sorted(tuple(row) for row in rows)


async def test_a_hundred_spends_at_once_ask_postgres_three_times(
    purse: Purse, gateway: asyncpg.Pool, project: str
) -> None:
    await limit(gateway, project, PLENTY)
    together = asyncio.Event()
    spends = [asyncio.create_task(purse.spend(until=together)) for _ in range(2 * BLOCK_SPENDS)]

    async def all_are_reserved() -> bool:
        return (await counted(gateway, project))[1] == 2 * BLOCK_SPENDS * ESTIMATE

    await eventually(all_are_reserved)
    together.set()
    await asyncio.gather(*spends)
    await purse.budget.flush()
    assert purse.line.trips == 3
    assert await counted(gateway, project) == (3_000, 7_000)
    await purse.budget.close()
    assert await counted(gateway, project) == (3_000, 0)


async def test_spends_one_after_the_other_use_what_others_left(
    purse: Purse, gateway: asyncpg.Pool, project: str
) -> None:
    for _ in range(150):
        await purse.spend(cost=30)
    assert purse.line.trips == 1
    await purse.budget.close()
    assert purse.line.trips == 2
    assert await counted(gateway, project) == (4_500, 0)


async def test_processes_together_never_spend_more_than_there_is(
    database: Database, gateway: asyncpg.Pool, project: str
) -> None:
    await limit(gateway, project, 10_000)
    purses = [process(database, project) for _ in range(4)]
    spends = [purse.spend(cost=ESTIMATE) for purse in purses for _ in range(50)]
    refused = [e for e in await asyncio.gather(*spends, return_exceptions=True) if e is not None]
    assert {type(error) for error in refused} == {BudgetExhausted}
    assert len(refused) == 100
    for purse in purses:
        await purse.budget.close()
    assert await counted(gateway, project) == (10_000, 0)


async def test_a_budget_that_was_lowered_holds_after_a_blocks_time(
    purse: Purse, gateway: asyncpg.Pool, project: str
) -> None:
    await purse.spend()
    await limit(gateway, project, 10)
    purse.now = BLOCK_SECONDS - 0.1
    await purse.spend()
    purse.now = BLOCK_SECONDS
    with pytest.raises(BudgetExhausted):
        await purse.spend()
    assert await counted(gateway, project) == (60, 0)


async def test_a_purge_holds_after_a_blocks_time_and_leaves_nothing(
    purse: Purse, gateway: asyncpg.Pool, owner: Any, project: str
) -> None:
    await purse.spend()
    await gateway.fetchval("SELECT usage.purge($1)", project)
    await purse.spend()
    purse.now = BLOCK_SECONDS
    with pytest.raises(BudgetExhausted):
        await purse.spend()
    await purse.budget.close()
    assert await counted(gateway, project) == (0, 0)
    assert await ledger(owner, project) == []


async def test_nobody_is_refused_for_money_that_this_process_holds_idle(
    purse: Purse, gateway: asyncpg.Pool, project: str
) -> None:
    await limit(gateway, project, PLENTY)
    other, end = await purse.spending()
    await limit(gateway, project, 6_000)
    await purse.spend(cost=5_500, estimate=5_500)
    with pytest.raises(BudgetExhausted):
        await purse.spend(estimate=500)
    end.set()
    await other
    await purse.spend(cost=470, estimate=470)
    await purse.budget.close()
    assert await counted(gateway, project) == (6_000, 0)


async def test_nobody_is_refused_for_money_that_is_on_its_way_back(
    purse: Purse, gateway: asyncpg.Pool, project: str
) -> None:
    await limit(gateway, project, PLENTY)
    await purse.spend(cost=30)
    await limit(gateway, project, 130)
    purse.now, purse.line.cut = BLOCK_SECONDS, True
    await purse.budget.flush()
    purse.line.cut = False
    await purse.spend(cost=100)
    with pytest.raises(BudgetExhausted):
        await purse.spend(estimate=1)


async def test_a_refusal_costs_one_question_where_nothing_can_come_back(
    purse: Purse, gateway: asyncpg.Pool, project: str
) -> None:
    await limit(gateway, project, 99)
    for trips in (1, 2, 3):
        with pytest.raises(BudgetExhausted):
            await purse.spend()
        assert purse.line.trips == trips


async def test_what_is_told_again_because_the_reply_was_lost_counts_once(
    purse: Purse, gateway: asyncpg.Pool, owner: Any, project: str
) -> None:
    await purse.spend(cost=30)
    purse.line.losing = True
    await purse.budget.flush()
    await purse.spend(cost=5)
    await purse.budget.flush()
    assert (await counted(gateway, project))[0] == 30
    purse.line.losing = False
    await purse.budget.close()
    assert await counted(gateway, project) == (35, 0)
    assert await ledger(owner, project) == [("gemini", 5), ("gemini", 30)]


async def test_without_postgres_nothing_is_spent_but_what_was_reserved(
    purse: Purse, gateway: asyncpg.Pool, project: str
) -> None:
    purse.line.cut = True
    with pytest.raises(Unavailable):
        async with purse.open():
            raise AssertionError("nothing is reserved")
    purse.line.cut = False
    await purse.spend()
    purse.line.cut = True
    await purse.spend()
    purse.now = BLOCK_SECONDS
    with pytest.raises(Unavailable):
        await purse.spend()
    purse.line.cut = False
    await purse.budget.close()
    assert await counted(gateway, project) == (60, 0)


async def test_a_spend_that_fails_or_is_cancelled_is_charged_what_it_noted_by_then(
    purse: Purse, gateway: asyncpg.Pool, owner: Any, project: str
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with purse.open() as spend:
            spend.add(Used("anthropic", "a", cost_micro_usd=7))
            spend.add(Used("gemini", "m", cost_micro_usd=2))
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        async with purse.open():
            raise ZeroDivisionError
    task, _ = await purse.spending(cost=40)
    task.cancel()
    await asyncio.wait({task})
    await purse.budget.close()
    assert await counted(gateway, project) == (49, 0)
    assert await ledger(owner, project) == [
        ("anthropic", 7),
        ("gemini", 0),
        ("gemini", 2),
        ("gemini", 40),
    ]


async def test_what_was_reserved_for_a_caller_who_left_meanwhile_goes_back(
    purse: Purse, gateway: asyncpg.Pool, project: str
) -> None:
    purse.line.open.clear()
    leaving = asyncio.create_task(purse.spend())
    await purse.line.reached.wait()
    leaving.cancel()
    await asyncio.wait({leaving})
    assert leaving.cancelled()
    closing = asyncio.create_task(purse.budget.close())
    purse.line.open.set()
    await closing
    assert purse.line.trips == 2
    assert await counted(gateway, project) == (0, 0)


async def test_a_process_that_ends_leaves_nothing_reserved(
    purse: Purse, gateway: asyncpg.Pool, project: str
) -> None:
    running = asyncio.create_task(purse.budget.run())
    await purse.spend(cost=30)
    late, end = await purse.spending(cost=8)
    running.cancel()
    await asyncio.wait({running})
    assert await counted(gateway, project) == (30, ESTIMATE)
    end.set()
    await late
    await purse.budget.close()
    assert await counted(gateway, project) == (38, 0)


async def test_a_killed_process_loses_what_it_had_not_told_and_its_block_is_swept(
    purse: Purse, gateway: asyncpg.Pool, owner: Any, project: str
) -> None:
    await purse.spend(cost=30)
    await purse.budget.flush()
    await purse.spend(cost=5)
    assert await counted(gateway, project) == (30, BLOCK_SPENDS * ESTIMATE - 30)
    await owner.execute(
        "UPDATE usage.reservation SET expires_at = now() - interval '1 second' "
        "WHERE project_id = $1",
        project,
    )
    await gateway.fetchval("SELECT usage.sweep()")
    assert await counted(gateway, project) == (30, 0)


async def test_what_was_spent_is_told_by_itself_and_a_block_that_nobody_uses_goes_back(
    purse: Purse, gateway: asyncpg.Pool, owner: Any, project: str
) -> None:
    running = asyncio.create_task(purse.budget.run())
    await purse.spend(cost=30, estimate=100)
    await purse.spend(cost=0, estimate=0)

    async def told() -> bool:
        return await counted(gateway, project) == (30, 100 * BLOCK_SPENDS - 30)

    await eventually(told, 10)
    assert await ledger(owner, project) == [("gemini", 0), ("gemini", 30)]
    purse.now = BLOCK_SECONDS

    async def back() -> bool:
        return await counted(gateway, project) == (30, 0)

    await eventually(back, 10)
    trips = purse.line.trips
    running.cancel()
    await asyncio.wait({running})
    assert purse.line.trips == trips == 3


async def test_a_line_that_postgres_refuses_holds_up_no_other(
    purse: Purse, gateway: asyncpg.Pool, owner: Any, project: str
) -> None:
    for number in range(5):
        await purse.spend(cost=10 + number, request="req\0" if number == 3 else "req_1")
    await purse.budget.close()
    assert await ledger(owner, project) == [("gemini", cost) for cost in (10, 11, 12, 14)]
    assert await counted(gateway, project) == (47, 0)


async def test_what_costs_nothing_asks_nobody_and_comes_to_nothing_without_a_line(
    purse: Purse, owner: Any, project: str
) -> None:
    await purse.spend(cost=0, estimate=0)
    async with purse.open(0):
        pass
    assert purse.line.trips == 0
    await purse.budget.close()
    assert await ledger(owner, project) == [("gemini", 0)]
