"""Workers that are killed, stopped or frozen, and what others make of their work."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import Any

import pytest

from citemesh.ingestion import v1
from meshkit.context import acting_as
from meshkit.errors import Precondition, Unavailable
from tests.contract.ingestion_room import Ingestion, Room, text_of
from tests.contract.service_process import eventually

READY, FAILED = v1.DOCUMENT_STATE_READY, v1.DOCUMENT_STATE_FAILED


async def test_a_killed_workers_document_is_resumed_without_the_batches_it_had(room: Room) -> None:
    data = text_of(200)
    # Leaving the block sends SIGTERM, for which it is too late by then.
    with suppress(ProcessLookupError):
        async with room.ingestion() as first, room.slow_writes():
            document = (await first.upload(data)).document
            await eventually(lambda: room.some_indexed(document.id))
            first.process.process.send_signal(signal.SIGKILL)
            await first.process.process.wait()
    before = (await room.version(document.id))["indexed"]
    assert before >= 4
    room.retrieval.written = 0
    room.embedding.texts.clear()
    async with room.ingestion() as second:
        second.project_id = first.project_id
        async with asyncio.timeout(10):
            ready = await second.settled(document.id)
    assert ready.state == READY
    assert " ".join(room.retrieval.texts(document.id)) == data.decode()
    # What Postgres had been told before the kill may have been committed after it.
    assert room.retrieval.written <= ready.chunk_count - before
    assert room.embedding.texts.total() == room.retrieval.written


async def test_a_stop_gives_the_lease_back_uncounted(room: Room) -> None:
    async with room.ingestion() as ingestion:
        room.embedding.gate.clear()
        document = (await ingestion.upload(text_of(50))).document
        await eventually(lambda: room.at_stage(document.id, "embed"))
    found = await room.version(document.id)
    assert (found["state"], found["lease_owner"]) == ("queued", "")
    assert found["starts_without_progress"] == 0


async def test_a_frozen_worker_is_fenced_when_it_wakes(room: Room) -> None:
    data = text_of(200)
    async with room.ingestion() as one, room.ingestion() as two, room.slow_writes():
        two.project_id = one.project_id
        document = (await one.upload(data)).document
        await eventually(lambda: room.some_indexed(document.id))
        started = await one.said("document started", document.id)
        frozen, other = (one, two) if started else (two, one)
        assert not await other.said("document started", document.id)
        frozen.process.process.send_signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(30):
                ready = await other.settled(document.id)
        finally:
            frozen.process.process.send_signal(signal.SIGCONT)
        assert ready.state == READY
        # A call of its own shows that the woken one is awake again.
        await frozen.get(document.id)
        await eventually(lambda: frozen.said("document given up", document.id))
        assert (await room.version(document.id))["state"] == "ready"
    assert " ".join(room.retrieval.texts(document.id)) == data.decode()
    assert [a.document.document_id for a in room.retrieval.activations].count(document.id) == 1


async def test_chunks_that_retrieval_lost_are_indexed_again(room: Room) -> None:
    data = text_of(60)
    async with room.ingestion() as ingestion:
        room.retrieval.gate.clear()
        document = (await ingestion.upload(data)).document
        await eventually(lambda: room.at_stage(document.id, "embed"))
        original = room.retrieval.ActivateVersion

        async def forgetful(request: Any, context: Any) -> Any:
            room.retrieval.ActivateVersion = original  # type: ignore[method-assign]
            room.retrieval.chunks.clear()
            return await original(request, context)

        room.retrieval.ActivateVersion = forgetful  # type: ignore[method-assign]
        room.retrieval.gate.set()
        ready = await ingestion.settled(document.id)
    assert ready.state == READY
    assert " ".join(room.retrieval.texts(document.id)) == data.decode()


async def test_other_cuts_make_a_new_version_rather_than_a_mixture(room: Room) -> None:
    data = text_of(200)
    async with room.ingestion() as ingestion, room.slow_writes():
        document = (await ingestion.upload(data)).document
        await eventually(lambda: room.some_indexed(document.id))
    assert (await room.version(document.id))["state"] == "queued"
    async with room.ingestion(CITEMESH_INGESTION_CHUNK_TOKENS="80") as second:
        second.project_id = ingestion.project_id
        await eventually(lambda: _version(second, document.id, 2))
        ready = await second.settled(document.id)
    assert (ready.state, ready.version, ready.live_version) == (READY, 2, 2)
    assert " ".join(room.retrieval.texts(document.id, 2)) == data.decode()


async def test_what_was_embedded_in_a_retired_space_becomes_a_new_version(room: Room) -> None:
    room.retrieval.error = Precondition("SPACE_RETIRED", "The space is retired.")
    async with room.ingestion() as ingestion:
        document = (await ingestion.upload(text_of(20))).document

        async def begun_anew() -> bool:
            return (await ingestion.get(document.id)).version > 1

        await eventually(begun_anew, 60)
        room.retrieval.error = None
        ready = await ingestion.settled(document.id)
    assert ready.state == READY
    assert ready.live_version == ready.version > 1


async def _version(ingestion: Ingestion, document_id: str, version: int) -> bool:
    return (await ingestion.get(document_id)).version == version


async def test_a_watcher_does_not_hold_up_a_stop(room: Room) -> None:
    # Leaving the block sends a second SIGTERM, for which it is too late by then.
    with suppress(ProcessLookupError):
        async with room.ingestion() as ingestion:
            room.embedding.gate.clear()
            document = (await ingestion.upload(text_of(50))).document
            with acting_as(ingestion.caller()):
                request = v1.WatchDocumentRequest(document_id=document.id)
                stream = ingestion.stub.WatchDocument(request, timeout=60)
            await stream.read()
            ingestion.process.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(8):
                with pytest.raises(Unavailable):
                    [response async for response in stream]
                assert await ingestion.process.process.wait() == 0
    assert (await room.version(document.id))["state"] == "queued"
