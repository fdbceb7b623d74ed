"""Who may see and do what, and what lists and exports hold."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import pytest

from citemesh.ingestion import v1
from meshkit.context import acting_as
from meshkit.errors import (
    InvalidInput,
    NotFound,
    PermissionDenied,
)
from meshkit.ids import new_id
from tests.contract.ingestion_room import Ingestion, Room, text_of

QUEUED, PROCESSING = v1.DOCUMENT_STATE_QUEUED, v1.DOCUMENT_STATE_PROCESSING
READY, FAILED = v1.DOCUMENT_STATE_READY, v1.DOCUMENT_STATE_FAILED


async def test_who_may_not_see_a_document_is_told_that_there_is_none(
    ingestion: Ingestion,
) -> None:
    hr, sales = ingestion.caller("group:hr"), ingestion.caller("group:sales")
    document = (await ingestion.upload(text_of(3), caller=hr, allow=["group:hr"])).document
    assert (await ingestion.settled(document.id, hr)).state == READY
    stranger = ingestion.caller("group:hr", project_id=new_id("prj"))
    for caller in (sales, stranger):
        with pytest.raises(NotFound):
            await ingestion.get(document.id, caller)
        with pytest.raises(NotFound):
            await ingestion.delete(document.id, caller=caller)
        with pytest.raises(NotFound):
            await ingestion.upload(text_of(3), caller=caller, document_id=document.id)
        with acting_as(caller):
            listed = await ingestion.stub.ListDocuments(v1.ListDocumentsRequest(), timeout=10)
            assert not listed.documents
            request = v1.ReprocessDocumentRequest(document_id=document.id, request_id=new_id("req"))
            with pytest.raises(NotFound):
                await ingestion.stub.ReprocessDocument(request, timeout=10)


async def test_scopes_decide_what_a_caller_may_do(ingestion: Ingestion) -> None:
    with pytest.raises(PermissionDenied):
        await ingestion.upload(text_of(2), caller=ingestion.caller(scopes=["read"]))
    request = v1.PurgeProjectRequest(project_id=ingestion.project_id)
    with acting_as(ingestion.caller()), pytest.raises(PermissionDenied):
        await ingestion.stub.PurgeProject(request, timeout=10)
    with acting_as(ingestion.caller(scopes=["admin"])), pytest.raises(PermissionDenied):
        await ingestion.stub.PurgeProject(v1.PurgeProjectRequest(project_id="prj_x"), timeout=10)


async def test_a_list_pages_newest_first_and_filters(ingestion: Ingestion) -> None:
    names = [
        (await ingestion.upload(text_of(2), f"{n}.txt", labels={"odd": str(n % 2)})).document.id
        for n in range(5)
    ]
    for name in names:
        await ingestion.settled(name)

    async def listed(**filters: Any) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            request = v1.ListDocumentsRequest(page_size=2, page_token=token, **filters)
            response = await ingestion.stub.ListDocuments(request, timeout=10)
            assert len(response.documents) <= 2
            found += [document.id for document in response.documents]
            token = response.next_page_token
            if not token:
                return found

    with acting_as(ingestion.caller()):
        assert await listed() == names[::-1]
        assert await listed(labels={"odd": "1"}) == [names[3], names[1]]
        assert await listed(state=FAILED) == []
        assert await listed(state=READY) == names[::-1]
        with pytest.raises(InvalidInput):
            await ingestion.stub.ListDocuments(
                v1.ListDocumentsRequest(page_token="nonsense"), timeout=10
            )


async def test_an_export_holds_every_document_and_chunk(room: Room, ingestion: Ingestion) -> None:
    names = set()
    for allow in ([], ["group:hr"]):
        hr = ingestion.caller("group:hr")
        document = (await ingestion.upload(text_of(6), caller=hr, allow=allow)).document
        await ingestion.settled(document.id, hr)
        names.add(document.id)
    with acting_as(ingestion.caller(scopes=["admin"])):
        stream = ingestion.stub.ExportProject(v1.ExportProjectRequest(), timeout=30)
        lines = b"".join([response.lines async for response in stream]).splitlines()
    entries = [json.loads(line) for line in lines]
    assert {entry["id"] for entry in entries if entry["kind"] == "document"} == names
    texts = [entry["text"] for entry in entries if entry["kind"] == "chunk"]
    assert sorted(texts) == sorted(t for name in names for t in room.retrieval.texts(name))


async def test_the_runtime_role_sees_no_row_without_a_project(
    room: Room, ingestion: Ingestion
) -> None:
    await ingestion.upload(text_of(3))
    connection = await asyncpg.connect(room.postgres.dsn("ingestion"))
    try:
        assert await connection.fetchval("SELECT count(*) FROM ingestion.document") == 0
        assert await connection.fetchval("SELECT count(*) FROM ingestion.document_version") == 0
    finally:
        await connection.close()
