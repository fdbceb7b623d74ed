"""Deleting a document."""

from __future__ import annotations

import pytest

from citemesh.ingestion import v1
from meshkit.errors import (
    NotFound,
    Unavailable,
)
from meshkit.ids import new_id
from tests.contract.ingestion_room import DOWN, Ingestion, Room, text_of
from tests.contract.service_process import eventually

QUEUED, PROCESSING = v1.DOCUMENT_STATE_QUEUED, v1.DOCUMENT_STATE_PROCESSING
READY, FAILED = v1.DOCUMENT_STATE_READY, v1.DOCUMENT_STATE_FAILED


async def test_a_deleted_document_is_gone_when_the_call_returns(
    room: Room, ingestion: Ingestion
) -> None:
    document = (await ingestion.upload(text_of(3))).document
    await ingestion.settled(document.id)
    request_id = new_id("req")
    await ingestion.delete(document.id, request_id=request_id)
    assert document.id in room.retrieval.removed
    assert await ingestion.gone(document.id)
    assert not list((room.blobs / ingestion.project_id).glob("*"))
    await ingestion.delete(document.id, request_id=request_id)
    with pytest.raises(NotFound):
        await ingestion.delete(document.id)


async def test_a_removal_is_acknowledged_only_when_retrieval_committed_it(
    room: Room, ingestion: Ingestion
) -> None:
    document = (await ingestion.upload(text_of(3))).document
    await ingestion.settled(document.id)
    room.retrieval.error = DOWN
    try:
        with pytest.raises(Unavailable) as refused:
            await ingestion.delete(document.id)
        assert refused.value.reason == "RETRIEVAL_UNAVAILABLE"
        shown = await ingestion.get(document.id)
        assert (shown.state, shown.stage) == (PROCESSING, "remove")
    finally:
        room.retrieval.error = None
    await eventually(lambda: ingestion.gone(document.id))
    assert document.id in room.retrieval.removed


async def test_a_deletion_wins_over_the_worker(room: Room, ingestion: Ingestion) -> None:
    room.embedding.gate.clear()
    try:
        document = (await ingestion.upload(text_of(40))).document
        await eventually(lambda: ingestion.at(document.id, PROCESSING))
        await ingestion.delete(document.id)
    finally:
        room.embedding.gate.set()
    assert await ingestion.gone(document.id)
    # Another document passes through the same worker: it did not stick.
    other = (await ingestion.upload(text_of(3))).document
    assert (await ingestion.settled(other.id)).state == READY
    assert document.id not in room.retrieval.live
