"""Purging a project, also while something arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from citemesh.ingestion import v1
from meshkit.context import acting_as
from meshkit.errors import (
    NotFound,
    Unavailable,
)
from meshkit.ids import new_id
from tests.contract.ingestion_room import DOWN, Ingestion, Room, text_of
from tests.contract.service_process import eventually

QUEUED, PROCESSING = v1.DOCUMENT_STATE_QUEUED, v1.DOCUMENT_STATE_PROCESSING
READY, FAILED = v1.DOCUMENT_STATE_READY, v1.DOCUMENT_STATE_FAILED


async def test_a_purge_leaves_no_row_and_no_file_of_the_project(
    room: Room, ingestion: Ingestion
) -> None:
    for _ in range(2):
        document = (await ingestion.upload(text_of(6))).document
        await ingestion.settled(document.id)
    receipt = await _purge(ingestion)
    assert (receipt.documents_removed, receipt.files_removed) == (2, 2)
    assert receipt.chunks_removed > 0
    assert ingestion.project_id in room.embedding.purged
    assert not (room.blobs / ingestion.project_id).exists()
    assert await _rows(room, ingestion) == {}


async def test_an_upload_under_way_during_a_purge_is_refused_and_leaves_nothing(
    room: Room, ingestion: Ingestion
) -> None:
    arriving = asyncio.Event()
    late = ingestion.caller()

    async def parts() -> AsyncIterator[v1.UploadDocumentRequest]:
        start = v1.UploadStart(
            metadata=v1.DocumentMetadata(file_name="x.txt"), request_id=new_id("req")
        )
        yield v1.UploadDocumentRequest(start=start)
        yield v1.UploadDocumentRequest(data=text_of(6))
        await arriving.wait()
        yield v1.UploadDocumentRequest(end=v1.UploadEnd())

    async def begun() -> bool:
        return any((room.blobs / ingestion.project_id).glob("*"))

    async def upload() -> None:
        with acting_as(late):
            await ingestion.stub.UploadDocument(parts(), timeout=30)

    upload_task = asyncio.create_task(upload())
    await eventually(begun)
    await _purge(ingestion)
    arriving.set()
    with pytest.raises(NotFound) as under_way:
        await upload_task
    with pytest.raises(NotFound) as afterwards:
        await ingestion.upload(text_of(6), caller=late)
    assert under_way.value.reason == afterwards.value.reason == "PROJECT_PURGED"
    assert await _rows(room, ingestion) == {}
    assert not [path for path in room.blob_files() if ingestion.project_id in path.parts]


async def test_a_purge_takes_what_is_being_committed_when_it_begins(
    room: Room, ingestion: Ingestion
) -> None:
    waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = $1)"
    owner = await asyncpg.connect(room.postgres.owner_dsn)
    watch = await asyncpg.connect(room.postgres.owner_dsn)
    try:
        async with owner.transaction():
            await owner.execute("LOCK TABLE ingestion.applied_request IN SHARE MODE")
            upload = asyncio.create_task(ingestion.upload(text_of(6)))
            await eventually(lambda: watch.fetchval(waiting, "relation"))
            purge = asyncio.create_task(_purge(ingestion))
            await eventually(lambda: watch.fetchval(waiting, "advisory"))
        await upload
        assert (await purge).documents_removed == 1
    finally:
        await owner.close()
        await watch.close()
    assert await _rows(room, ingestion) == {}


async def test_no_worker_gets_a_document_of_a_project_whose_purge_waits_for_retrieval(
    room: Room, ingestion: Ingestion
) -> None:
    room.embedding.gate.clear()
    try:
        for _ in range(2):
            await ingestion.upload(text_of(6))
        room.retrieval.error = DOWN
        with pytest.raises(Unavailable):
            await _purge(ingestion)
        with pytest.raises(NotFound):
            await ingestion.upload(text_of(6))
        connection = await asyncpg.connect(room.postgres.dsn("ingestion"))
        try:
            claim = "SELECT project_id FROM ingestion.claim('test', interval '1 minute', 9)"
            transaction = connection.transaction()
            await transaction.start()
            claimed = set()
            while (project := await connection.fetchval(claim)) is not None:
                claimed.add(project)
            await transaction.rollback()
        finally:
            await connection.close()
        assert ingestion.project_id not in claimed
    finally:
        room.retrieval.error = None
        room.embedding.gate.set()
    await _purge(ingestion)
    assert await _rows(room, ingestion) == {}


async def _purge(ingestion: Ingestion) -> Any:
    with acting_as(ingestion.caller(scopes=["admin"])):
        request = v1.PurgeProjectRequest(project_id=ingestion.project_id)
        return await ingestion.stub.PurgeProject(request, timeout=30)


async def _rows(room: Room, ingestion: Ingestion) -> dict[str, int]:
    """Rows of the project by table, of tables that have any."""
    tables = ("document", "document_version", "applied_request", "project_turn")
    connection = await asyncpg.connect(room.postgres.owner_dsn)
    try:
        count = "SELECT count(*) FROM ingestion.{} WHERE project_id = $1"
        found = {
            table: await connection.fetchval(count.format(table), ingestion.project_id)
            for table in tables
        }
    finally:
        await connection.close()
    return {table: rows for table, rows in found.items() if rows}
