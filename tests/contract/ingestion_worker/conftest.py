"""Neighbours of its own for each test, and a queue that holds nothing of another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from citemesh.ingestion import v1
from meshkit.database.pool import Database
from tests.contract.ingestion_room import Room, open_room

READY, FAILED = v1.DOCUMENT_STATE_READY, v1.DOCUMENT_STATE_FAILED


@pytest.fixture
async def room(postgres: Any, tmp_path: Path) -> AsyncIterator[Room]:
    """Neighbours, and a queue that holds nothing of another test."""
    connection = await asyncpg.connect(postgres.owner_dsn)
    await connection.execute("TRUNCATE ingestion.document CASCADE")
    await connection.close()
    async with open_room(postgres, tmp_path) as opened:
        yield opened


@pytest.fixture
async def database(room: Room) -> AsyncIterator[Database]:
    opened = await Database.connect(
        room.postgres.dsn("ingestion"), role="citemesh_ingestion", size=4
    )
    yield opened
    await opened.close()
