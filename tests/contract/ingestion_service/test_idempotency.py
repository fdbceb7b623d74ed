"""The same content and the same request, again and at once."""

from __future__ import annotations

import asyncio

import pytest

from citemesh.ingestion import v1
from meshkit.errors import (
    Conflict,
    NotFound,
)
from meshkit.ids import new_id
from tests.contract.ingestion_room import Ingestion, Room, text_of

QUEUED, PROCESSING = v1.DOCUMENT_STATE_QUEUED, v1.DOCUMENT_STATE_PROCESSING
READY, FAILED = v1.DOCUMENT_STATE_READY, v1.DOCUMENT_STATE_FAILED


async def test_the_same_content_is_the_same_document_in_its_project_only(
    ingestion: Ingestion,
) -> None:
    data = text_of(3)
    first = await ingestion.upload(data, "a.txt")
    again = await ingestion.upload(data, "b.txt")
    assert (again.existing, again.document.id) == (True, first.document.id)
    other = await ingestion.upload(data, caller=ingestion.caller(project_id=new_id("prj")))
    assert (other.existing, other.document.id != first.document.id) == (False, True)
    restricted = await ingestion.upload(data, allow=["user:ann"])
    assert restricted.document.id != first.document.id


async def test_uploads_of_one_content_at_once_become_one_document(
    room: Room, ingestion: Ingestion
) -> None:
    data = text_of(3)
    responses = await asyncio.gather(*(ingestion.upload(data) for _ in range(6)))
    assert len({response.document.id for response in responses}) == 1
    assert sum(not response.existing for response in responses) == 1
    project = room.blobs / ingestion.project_id
    assert len(list(project.iterdir())) == 1


async def test_a_repeated_request_gets_the_first_result_and_another_content_is_refused(
    ingestion: Ingestion,
) -> None:
    data, request_id = text_of(3), new_id("req")
    responses = await asyncio.gather(
        *(ingestion.upload(data, request_id=request_id) for _ in range(3))
    )
    assert len({response.document.id for response in responses}) == 1
    with pytest.raises(Conflict) as refused:
        await ingestion.upload(text_of(3), request_id=request_id)
    assert refused.value.reason == "REQUEST_ID_REUSED"


async def test_a_request_repeated_while_it_still_runs_gets_the_first_result(
    room: Room, ingestion: Ingestion
) -> None:
    data, request_id = text_of(40), new_id("req")
    # Small pieces: all of them are under way at the same time.
    sent = [ingestion.upload(data, request_id=request_id, piece=50) for _ in range(4)]
    answers = await asyncio.gather(*sent)
    assert len({answer.document.id for answer in answers}) == 1
    assert sorted(answer.existing for answer in answers) == [False, True, True, True]
    await ingestion.settled(answers[0].document.id)
    assert len(list((room.blobs / ingestion.project_id).glob("*"))) == 1


async def test_a_replayed_upload_does_not_bring_a_deleted_document_back(
    ingestion: Ingestion,
) -> None:
    data, request_id = text_of(3), new_id("req")
    document = (await ingestion.upload(data, request_id=request_id)).document
    await ingestion.delete(document.id)
    with pytest.raises(NotFound):
        await ingestion.upload(data, request_id=request_id)
