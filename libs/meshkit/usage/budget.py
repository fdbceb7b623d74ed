"""Leases blocks before a spend, and tells in batches what spends came to.

What costs nothing (local models) is not reserved; its tokens are told with the rest.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from uuid import UUID, uuid4
from weakref import WeakValueDictionary

import asyncpg

from meshkit import context
from meshkit.clock import running_seconds
from meshkit.context import RequestContext
from meshkit.database.pool import Database
from meshkit.errors import BudgetExhausted, InvalidInput, MeshError
from meshkit.logging import logger
from meshkit.telemetry import metrics
from meshkit.usage.blocks import Block, Blocks, Return
from meshkit.usage.spend import Entry, Spend, Used

log = logger(__name__)

_tokens = metrics.counter("citemesh.usage.tokens")
_cost = metrics.counter("citemesh.usage.cost")

EXHAUSTED = "CM402"
"""SQLSTATE of `usage.lease` when the project has no money left."""
FOREIGN = "CM404"
"""SQLSTATE of `usage.draw` when a block is another project's."""
RESERVATION_SECONDS = 600
"""A block that its process never closes is released after this time."""
BLOCK_SPENDS = 50
"""Spends like the one that needs it, for which a block is large enough; a project whose budget
nears its end gets less."""
FLUSH_SECONDS = 0.5
CLOSE_SECONDS = 5.0
"""How long a process that ends waits for blocks it has asked for; a later one is swept."""
BUFFERED_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class Batch:
    """What is told in one transaction, once, however often it has to be sent."""

    entries: list[Entry]
    returns: list[Return]
    id: UUID = field(default_factory=uuid4)

    def halves(self) -> list[Batch]:
        """The same in two batches; nothing when there is one thing only."""
        if self.entries and self.returns:
            return [Batch(self.entries, []), Batch([], self.returns)]
        middle = max(len(self.entries), len(self.returns)) // 2
        if not middle:
            return []
        return [
            Batch(self.entries[:middle], self.returns[:middle]),
            Batch(self.entries[middle:], self.returns[middle:]),
        ]


def _measure(stage: str, used: Used) -> None:
    labels = {"stage": stage, "provider": used.provider, "model": used.model}
    _tokens.add(used.input_tokens, {**labels, "direction": "input"})
    if used.output_tokens:
        _tokens.add(used.output_tokens, {**labels, "direction": "output"})
    if used.cost_micro_usd:
        _cost.add(used.cost_micro_usd / 1e6, labels)


class Budget:
    """Asks schema `usage` for blocks of money and tells it what was spent.

    A process that is killed loses what its spends came to since the last batch, half a second
    at most; its blocks stay reserved until they expire and are swept.

    Args:
        database: Pool of this service.
        clock: Seconds that go by.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = running_seconds) -> None:
        self._database = database
        self._clock = clock
        self._blocks = Blocks()
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By project, held while a block is leased: who waits finds it, rather than asks too."""
        self._leasing: set[asyncio.Task[None]] = set()
        self._entries: list[Entry] = []
        self._returns: list[Return] = []
        self._batches: deque[Batch] = deque()
        """Made and not yet known to be booked; more than one only after one was refused."""
        self._booked = 0
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()

    @asynccontextmanager
    async def spend(
        self, *, estimate_micro_usd: int, stage: str, provider: str, model: str
    ) -> AsyncIterator[Spend]:
        """Takes an estimate for the block and notes what the block says it came to.

        A block that ends by an error or by cancellation is charged what it noted by
        then, so that nothing stays reserved.

        Raises:
            BudgetExhausted: when the project cannot pay the estimate.
            Unavailable: when the budget cannot be asked; nothing is spent then.
        """
        request = context.current()
        block = None
        if estimate_micro_usd > 0:
            block = await self._take(request.project_id, estimate_micro_usd)
        spend = Spend(provider, model)
        try:
            yield spend
        finally:
            for used in spend.used:
                _measure(stage, used)
            self._end(request, stage, spend, block, estimate_micro_usd)

    async def _take(self, project_id: str, estimate: int) -> Block:
        """A block that the estimate was taken from."""
        block = self._blocks.take(project_id, estimate, self._clock())
        if block is not None:
            return block
        asking = self._asking.setdefault(project_id, asyncio.Lock())
        async with asking:
            gave_back = False
            # More than once where another spend was faster at the block that was leased here.
            while (block := self._blocks.take(project_id, estimate, self._clock())) is None:
                booked = self._booked
                try:
                    await self._lease(project_id, estimate)
                except BudgetExhausted:
                    if gave_back or not await self._gave_back(project_id, booked):
                        raise
                    gave_back = True
        return block

    async def _lease(self, project_id: str, estimate: int) -> None:
        """Adds a block; also when the caller is gone by then, or it would stay reserved."""
        asked = asyncio.create_task(self._leased(project_id, estimate))
        self._leasing.add(asked)
        asked.add_done_callback(self._leasing.discard)
        await asyncio.shield(asked)

    async def _leased(self, project_id: str, estimate: int) -> None:
        now = self._clock()
        try:
            async with self._database.connection() as connection:
                row = await connection.fetchrow(
                    "SELECT id, amount FROM usage.lease($1, $2, $3, make_interval(secs => $4))",
                    project_id,
                    estimate,
                    BLOCK_SPENDS * estimate,
                    float(RESERVATION_SECONDS),
                )
        except asyncpg.PostgresError as error:
            if error.sqlstate == EXHAUSTED:
                raise BudgetExhausted(
                    "BUDGET_EXHAUSTED", "The project's budget is used up; raise it or wait."
                ) from None
            raise
        assert row is not None, "usage.lease returns one row or raises"
        self._blocks.add(Block(project_id, row["id"], row["amount"], now))
        self._wake.set()

    async def _gave_back(self, project_id: str, booked: int) -> bool:
        """Whether money of the project has gone back since `booked` batches were.

        That of blocks that no spend holds goes back now: nobody is refused for it.
        """
        self._returns += self._blocks.idle(project_id)
        on_their_way = [
            *self._returns,
            *(each for batch in self._batches for each in batch.returns),
        ]
        mine = any(each.project_id == project_id for each in on_their_way)
        if not mine and self._booked == booked:
            return False
        await self.flush()
        return True

    def _end(
        self,
        request: RequestContext,
        stage: str,
        spend: Spend,
        block: Block | None,
        estimate: int,
    ) -> None:
        cost = 0
        for number, used in enumerate(spend.lines):
            entry = Entry(
                request.project_id,
                stage,
                used.provider,
                used.model,
                used.input_tokens,
                used.output_tokens,
                used.cost_micro_usd,
                request.request_id,
                block.reservation if block else None,
            )
            # What was reserved for has a line, whatever came of it.
            if (block and number == 0) or not entry.came_to_nothing:
                self._note(entry)
            cost += used.cost_micro_usd
        if block is not None:
            block.end(estimate, cost)

    def _note(self, entry: Entry) -> None:
        self._entries.append(entry)
        if len(self._entries) > BUFFERED_ENTRIES:
            del self._entries[0]
            log.error("usage ledger unreachable for too long; oldest entry dropped")
        self._wake.set()

    async def run(self) -> None:
        """Tells what there is to tell, half a second after it came; runs until cancelled."""
        try:
            while True:
                await self._wake.wait()
                await asyncio.sleep(FLUSH_SECONDS)
                self._wake.clear()
                # Cancelled while it writes, it would have to be written again.
                await asyncio.shield(self.flush())
                if self._blocks or self._batches:
                    self._wake.set()
        finally:
            await asyncio.shield(self.close())

    async def close(self) -> None:
        """Gives back what no spend holds, and tells the rest."""
        if self._leasing:
            await asyncio.wait(self._leasing, timeout=CLOSE_SECONDS)
        self._returns += self._blocks.all_idle()
        await self.flush()

    async def flush(self) -> None:
        """Tells what is noted and what goes back; keeps it for the next time when that fails."""
        async with self._writing:
            if await self._all_booked():
                self._gather()
                await self._all_booked()

    async def _all_booked(self) -> bool:
        """Books the batches there are; False when nobody answers."""
        while self._batches:
            if not await self._book(self._batches[0]):
                return False
        return True

    def _gather(self) -> None:
        self._returns += self._blocks.due(self._clock())
        if self._entries or self._returns:
            self._batches.append(Batch(self._entries, self._returns))
            self._entries, self._returns = [], []

    async def _book(self, batch: Batch) -> bool:
        """Books the first batch, or breaks it up when it is refused; False when nobody answers."""
        entries = json.dumps([asdict(entry) for entry in batch.entries], default=str)
        returns = json.dumps([asdict(each) for each in batch.returns], default=str)
        try:
            async with self._database.connection() as connection:
                await connection.execute(
                    "SELECT usage.draw($1, $2::jsonb, $3::jsonb)", batch.id, entries, returns
                )
        except (MeshError, asyncpg.PostgresError) as error:
            if not _refused(error):
                log.warning("usage entries kept for later", error=type(error).__name__)
                return False
            # One line that cannot be booked must not keep all others from it.
            halves = batch.halves()
            if not halves:
                log.error("usage entry refused and dropped", error=type(error).__name__)
            self._batches.popleft()
            self._batches.extendleft(reversed(halves))
            return True
        self._batches.popleft()
        self._booked += 1
        return True


def _refused(error: Exception) -> bool:
    """Whether Postgres will not book a batch, however often it is asked."""
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate == FOREIGN:
        return True
    return isinstance(
        error, (InvalidInput, asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
    )
