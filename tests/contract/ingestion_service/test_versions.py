"""A document's versions, one after the other."""

from __future__ import annotations

from citemesh.ingestion import v1
from meshkit.context import acting_as
from meshkit.ids import new_id
from tests.contract.ingestion_room import Ingestion, Room, text_of
from tests.contract.service_process import eventually

QUEUED, PROCESSING = v1.DOCUMENT_STATE_QUEUED, v1.DOCUMENT_STATE_PROCESSING
READY, FAILED = v1.DOCUMENT_STATE_READY, v1.DOCUMENT_STATE_FAILED


async def test_the_old_version_answers_until_the_new_one_is_ready(
    room: Room, ingestion: Ingestion
) -> None:
    document = (await ingestion.upload(text_of(3), allow=["user:ann"])).document
    await ingestion.settled(document.id)
    room.embedding.gate.clear()
    try:
        response = await ingestion.upload(text_of(3), "new.txt", document_id=document.id)
        assert (response.document.version, response.document.live_version) == (2, 1)
        assert list(response.document.allow) == ["user:ann"]
        processing = await eventually(lambda: ingestion.at(document.id, PROCESSING))
        assert (processing.live_version, room.retrieval.live[document.id]) == (1, 1)
    finally:
        room.embedding.gate.set()
    ready = await ingestion.settled(document.id)
    assert (ready.version, ready.live_version, ready.file_name) == (2, 2, "new.txt")
    assert room.retrieval.live[document.id] == 2


async def test_reprocessing_makes_a_new_version_of_the_stored_file(
    room: Room, ingestion: Ingestion
) -> None:
    document = (await ingestion.upload(text_of(6))).document
    await ingestion.settled(document.id)
    request = v1.ReprocessDocumentRequest(document_id=document.id, request_id=new_id("req"))
    with acting_as(ingestion.caller()):
        response = await ingestion.stub.ReprocessDocument(request, timeout=10)
        again = await ingestion.stub.ReprocessDocument(request, timeout=10)
    assert response.document.version == again.document.version == 2
    assert (await ingestion.settled(document.id)).live_version == 2
    assert room.retrieval.texts(document.id, 2) == room.retrieval.texts(document.id, 1)
