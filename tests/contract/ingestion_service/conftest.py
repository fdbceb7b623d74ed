"""One ingestion process for everything its callers are promised."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from citemesh.ingestion import v1
from tests.contract.ingestion_room import Ingestion, Room, open_room

QUEUED, PROCESSING = v1.DOCUMENT_STATE_QUEUED, v1.DOCUMENT_STATE_PROCESSING
READY, FAILED = v1.DOCUMENT_STATE_READY, v1.DOCUMENT_STATE_FAILED


@pytest.fixture(scope="package")
async def room(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Room]:
    async with open_room(postgres, tmp_path_factory.mktemp("ingestion")) as opened:
        yield opened


@pytest.fixture(scope="package")
async def process(room: Room) -> AsyncIterator[Ingestion]:
    async with room.ingestion(CITEMESH_INGESTION_MAX_FILE_BYTES="3000000") as running:
        yield running


@pytest.fixture
def ingestion(process: Ingestion) -> Ingestion:
    """The same process, a project of its own."""
    return Ingestion(process.process, process.stub, process.signer)
