"""Calls of schema `usage`, as the services make them."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta
from typing import Any

import asyncpg

MINUTE = timedelta(minutes=1)


async def reserve(pool: asyncpg.Pool, project: str, amount: int, ttl: timedelta = MINUTE) -> Any:
    return await pool.fetchval("SELECT usage.reserve($1, $2, $3)", project, amount, ttl)


async def settle(pool: asyncpg.Pool, reservation: Any, project: str, cost: int) -> None:
    await pool.execute(
        "SELECT usage.settle($1, $2, 'generate', 'gemini', 'm', 10, 20, $3, 'req_1')",
        reservation,
        project,
        cost,
    )


async def lease(
    pool: asyncpg.Pool, project: str, least: int, most: int, ttl: timedelta = MINUTE
) -> tuple[uuid.UUID, int]:
    """The block's reservation and amount."""
    row = await pool.fetchrow(
        "SELECT * FROM usage.lease($1, $2, $3, $4)", project, least, most, ttl
    )
    return row["id"], row["amount"]


def entry(project: str, cost: int, reservation: uuid.UUID | None = None) -> dict[str, Any]:
    """A line of the ledger."""
    return {
        "project_id": project,
        "stage": "generate",
        "provider": "gemini",
        "model": "m",
        "input_tokens": 10,
        "output_tokens": 20,
        "cost_micro_usd": cost,
        "request_id": "req_1",
        "reservation": reservation and str(reservation),
    }


def returned(
    project: str, reservation: uuid.UUID, *, back: int = 0, done: bool = False
) -> dict[str, Any]:
    """What of a block goes back."""
    reservation_id = str(reservation)
    return {
        "project_id": project,
        "reservation": reservation_id,
        "back_micro_usd": back,
        "done": done,
    }


async def draw(
    pool: asyncpg.Pool,
    entries: list[dict[str, Any]],
    blocks: list[dict[str, Any]],
    batch: uuid.UUID | None = None,
) -> None:
    await pool.execute(
        "SELECT usage.draw($1, $2::jsonb, $3::jsonb)",
        batch or uuid.uuid4(),
        json.dumps(entries),
        json.dumps(blocks),
    )


async def budget(pool: asyncpg.Pool, project: str) -> asyncpg.Record:
    return await pool.fetchrow("SELECT * FROM usage.budget_of($1)", project)


async def counted(pool: asyncpg.Pool, project: str) -> tuple[int, int]:
    """What is spent and what is reserved."""
    row = await budget(pool, project)
    return row["spent_micro_usd"], row["reserved_micro_usd"]


async def limit(pool: asyncpg.Pool, project: str, amount: int | None) -> None:
    await pool.execute("SELECT usage.set_budget($1, $2)", project, amount)
