"""Spending: reserved before, settled after, always against a project.

The functions of schema `usage` are the one place where money is counted. What
costs nothing (local models) is not reserved; its tokens are noted in the ledger
a moment later, several entries at a time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import UUID

import asyncpg

from meshkit import context
from meshkit.database.pool import Database
from meshkit.errors import BudgetExhausted, MeshError
from meshkit.logging import logger
from meshkit.telemetry import metrics

log = logger(__name__)

_tokens = metrics.counter("citemesh.usage.tokens")
_cost = metrics.counter("citemesh.usage.cost")

EXHAUSTED = "CM402"
"""SQLSTATE of `usage.reserve` when the project has no money left."""
RESERVATION_SECONDS = 600
"""A reservation that nobody settles is released after this time."""
FLUSH_SECONDS = 1.0
BUFFERED_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger."""

    project_id: str
    stage: str
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    cost_micro_usd: int
    request_id: str


@dataclass(frozen=True, slots=True)
class Used:
    """What one model took."""

    provider: str
    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cost_micro_usd: int = 0
    estimated: bool = False
    """Whether the tokens were estimated."""


class Spend:
    """A spend under way; `settle` or `add` say what it came to."""

    def __init__(self, provider: str, model: str) -> None:
        self._first = Used(provider, model)
        self._used: list[Used] = []

    @property
    def used(self) -> list[Used]:
        """What was used by each model so far."""
        return list(self._used)

    @property
    def lines(self) -> list[Used]:
        """The same for the ledger, where a spend that came to nothing is a line of zeros."""
        return self.used or [self._first]

    def settle(self, *, input_tokens: int, output_tokens: int = 0, cost_micro_usd: int = 0) -> None:
        """Notes what the model really used, in tokens and millionths of a dollar."""
        self._used = [
            replace(
                self._first,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cost_micro_usd=cost_micro_usd,
            )
        ]

    def add(self, used: Used) -> None:
        """Notes what one more model used, where several took part or had to be tried."""
        self._used.append(used)


def _measure(stage: str, used: Used) -> None:
    labels = {"stage": stage, "provider": used.provider, "model": used.model}
    _tokens.add(used.input_tokens, {**labels, "direction": "input"})
    if used.output_tokens:
        _tokens.add(used.output_tokens, {**labels, "direction": "output"})
    if used.cost_micro_usd:
        _cost.add(used.cost_micro_usd / 1e6, labels)


class Budget:
    """Asks schema `usage` before a spend and tells it after."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._entries: list[Entry] = []
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()

    @asynccontextmanager
    async def spend(
        self, *, estimate_micro_usd: int, stage: str, provider: str, model: str
    ) -> AsyncIterator[Spend]:
        """Reserves an estimate for the block and settles what the block says.

        A block that ends by an error or by cancellation settles what it noted by
        then, so that no reservation leaks.

        Raises:
            BudgetExhausted: when the project cannot pay the estimate.
            Unavailable: when the budget cannot be asked; nothing is spent then.
        """
        request = context.current()
        reservation = None
        if estimate_micro_usd > 0:
            reservation = await self.reserve(request.project_id, estimate_micro_usd)
        spend = Spend(provider, model)
        try:
            yield spend
        finally:
            for used in spend.used:
                _measure(stage, used)
            entries = [
                Entry(
                    request.project_id,
                    stage,
                    used.provider,
                    used.model,
                    used.input_tokens,
                    used.output_tokens,
                    used.cost_micro_usd,
                    request.request_id,
                )
                for used in spend.lines
            ]
            if reservation is not None:
                await asyncio.shield(self._settle(reservation, entries.pop(0)))
            for entry in entries:
                if entry.input_tokens or entry.output_tokens or entry.cost_micro_usd:
                    self._note(entry)

    async def reserve(self, project_id: str, micro_usd: int) -> UUID:
        """Reserves an amount; 0 only asks whether the project may spend at all.

        Raises:
            BudgetExhausted: when it cannot be paid.
        """
        try:
            async with self._database.connection() as connection:
                found: UUID = await connection.fetchval(
                    "SELECT usage.reserve($1, $2, make_interval(secs => $3))",
                    project_id,
                    micro_usd,
                    float(RESERVATION_SECONDS),
                )
        except asyncpg.PostgresError as error:
            if error.sqlstate == EXHAUSTED:
                raise BudgetExhausted(
                    "BUDGET_EXHAUSTED", "The project's budget is used up; raise it or wait."
                ) from None
            raise
        return found

    async def _settle(self, reservation: UUID, entry: Entry) -> None:
        try:
            async with self._database.connection() as connection:
                await connection.execute(
                    "SELECT usage.settle($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                    reservation,
                    entry.project_id,
                    entry.stage,
                    entry.provider,
                    entry.model,
                    entry.input_tokens,
                    entry.output_tokens,
                    entry.cost_micro_usd,
                    entry.request_id,
                )
        except (MeshError, asyncpg.PostgresError) as error:
            # The sweeper releases the reservation; the ledger line must not be lost.
            log.warning("settlement postponed", error=type(error).__name__)
            self._note(entry)

    def _note(self, entry: Entry) -> None:
        self._entries.append(entry)
        if len(self._entries) > BUFFERED_ENTRIES:
            del self._entries[0]
            log.error("usage ledger unreachable for too long; oldest entry dropped")
        self._wake.set()

    async def run(self) -> None:
        """Writes noted entries a second after they came; runs until cancelled."""
        try:
            while True:
                await self._wake.wait()
                await asyncio.sleep(FLUSH_SECONDS)
                self._wake.clear()
                # Cancelled while it writes, it would neither have written nor kept them.
                await asyncio.shield(self.flush())
        finally:
            await asyncio.shield(self.flush())

    async def flush(self) -> None:
        """Writes noted entries; keeps them for the next time when that fails."""
        async with self._writing:
            entries, self._entries = self._entries, []
            if not entries:
                return
            try:
                async with self._database.connection() as connection:
                    lines: list[dict[str, Any]] = [asdict(entry) for entry in entries]
                    await connection.execute("SELECT usage.record($1::jsonb)", json.dumps(lines))
            except (MeshError, asyncpg.PostgresError) as error:
                log.warning("usage entries kept for later", error=type(error).__name__)
                self._entries[:0] = entries
                self._wake.set()
