"""Who spends and who watches over it, each with no more rights than it has."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest


@pytest.fixture
async def spender(postgres: Any) -> AsyncIterator[asyncpg.Pool]:
    """Connections of a service that spends."""
    async with asyncpg.create_pool(postgres.dsn("generation"), min_size=1, max_size=8) as pool:
        yield pool


@pytest.fixture
async def gateway(postgres: Any) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(postgres.dsn("gateway"), min_size=1, max_size=2) as pool:
        yield pool


@pytest.fixture
async def owner(postgres: Any) -> AsyncIterator[Any]:
    """A superuser's connection, which sees every row."""
    connection = await asyncpg.connect(postgres.owner_dsn)
    yield connection
    await connection.close()


@pytest.fixture
def project() -> str:
    return f"prj_{uuid.uuid4().hex}"
