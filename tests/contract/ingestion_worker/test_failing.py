"""Attempts that fail: by a neighbour, by the file, by its reader."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psutil
import pytest

from citemesh.ingestion import v1
from meshkit.errors import Internal, MeshError, Precondition
from meshkit.ids import new_id
from tests.contract.ingestion_room import DOWN, Room, text_of
from tests.contract.service_process import eventually

READY, FAILED = v1.DOCUMENT_STATE_READY, v1.DOCUMENT_STATE_FAILED


async def test_a_neighbour_that_is_away_for_a_while_fails_no_document(room: Room) -> None:
    room.embedding.error = DOWN
    settings = {
        "CITEMESH_INGESTION_PATIENCE_SECONDS": "0.3",
        "CITEMESH_INGESTION_RETRY_LATER_SECONDS": "0.3",
    }
    async with room.ingestion(**settings) as ingestion:
        document = (await ingestion.upload(text_of(20))).document
        await eventually(lambda: _rested(room, document.id))
        room.embedding.error = None
        ready = await ingestion.settled(document.id)
    assert ready.state == READY


async def _rested(room: Room, document_id: str) -> bool:
    """Whether an attempt has ended and put the document back, which costs it nothing."""
    found = await room.version(document_id)
    assert found["state"] in ("queued", "processing")
    return bool(found["state"] == "queued" and found["lease_epoch"] >= 4)


@pytest.mark.parametrize(
    "error",
    [
        Precondition("SPACE_MISMATCH", "The space has vectors of another length."),
        Internal("VECTOR_INVALID", "The model returned a vector of zeros; it was not used."),
    ],
    ids=lambda error: error.reason,
)
async def test_an_error_that_repeating_cannot_mend_fails_the_document_with_its_reason(
    room: Room, error: MeshError
) -> None:
    room.embedding.error = error
    async with room.ingestion() as ingestion:
        document = (await ingestion.upload(text_of(5))).document
        failed = await ingestion.settled(document.id)
    assert (failed.state, failed.error.reason) == (FAILED, error.reason)


@pytest.mark.parametrize(("deaths", "state"), [(1, READY), (2, FAILED)])
async def test_a_reader_that_was_killed_is_given_a_second_chance(
    room: Room, deaths: int, state: Any
) -> None:
    """Once may be the kernel's doing; a file that kills its reader does so again."""
    async with room.ingestion() as ingestion:
        process = psutil.Process(ingestion.process.process.pid)
        killed: set[int] = set()

        async def one_more() -> bool:
            for child in process.children():
                with suppress(psutil.NoSuchProcess):
                    reads = any("extraction.worker" in part for part in child.cmdline())
                    if reads and child.pid not in killed:
                        child.kill()
                        killed.add(child.pid)
                        return True
            return False

        # Long enough to be caught at it, on a fast machine and on a busy one; what fails is
        # never embedded.
        data = text_of(1_000 if state == READY else 20_000)
        document = (await ingestion.upload(data)).document
        for _ in range(deaths):
            await eventually(one_more, every=0.002)
        found = await ingestion.settled(document.id)
    assert found.state == state
    if state == FAILED:
        assert found.error.reason == "EXTRACTION_MEMORY"


async def test_a_file_that_no_document_names_is_swept_and_others_are_not(room: Room) -> None:
    async with room.ingestion() as ingestion:
        document = (await ingestion.upload(text_of(3))).document
        await ingestion.settled(document.id)
    orphan = room.blobs / ingestion.project_id / new_id("blob")
    orphan.write_bytes(b"left by a crash between file and row")
    async with room.ingestion(CITEMESH_INGESTION_ORPHAN_HOURS="0.0000001") as second:
        second.project_id = ingestion.project_id

        async def swept() -> bool:
            return not orphan.exists()

        await eventually(swept)
        await second.reprocess(document.id)
        assert (await second.settled(document.id)).state == READY
