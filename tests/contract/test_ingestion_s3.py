"""Ingestion with its source files in S3, and S3 going away in between."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from citemesh.ingestion import v1
from meshkit.context import acting_as
from meshkit.errors import Unavailable
from meshkit.ids import new_id
from services.ingestion.blobs.s3 import PART_BYTES
from tests.contract.ingestion_room import Ingestion, Room, open_room, text_of
from tests.contract.s3_server import ACCESS, S3Server
from tests.contract.service_process import eventually
from tests.contract.wire import Wire, wire_to

READY = v1.DOCUMENT_STATE_READY


@dataclass(frozen=True, slots=True)
class InS3:
    """Ingestion whose blob store can be cut off."""

    room: Room
    ingestion: Ingestion
    wire: Wire
    s3: S3Server
    bucket: str
    spool: Path

    def holds(self) -> list[str]:
        """What of the present project lies in the bucket."""
        return [name for name in self.s3.holds(self.bucket) if self.ingestion.project_id in name]

    def temporary(self) -> list[Path]:
        return [path for path in self.spool.rglob("*") if path.is_file()]


def environment(bucket: str, port: int, spool: Path) -> dict[str, str]:
    return {
        **ACCESS,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "CITEMESH_BLOB_URL": f"s3://{bucket}/documents",
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
        "CITEMESH_INGESTION_SPOOL_DIRECTORY": str(spool),
        "CITEMESH_INGESTION_RETRY_LATER_SECONDS": "0.5",
    }


@pytest.fixture(scope="module")
async def shared(
    postgres: Any, s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[InS3]:
    bucket, spool = s3.bucket(), tmp_path_factory.mktemp("spool")
    async with (
        open_room(postgres, tmp_path_factory.mktemp("ingestion")) as room,
        wire_to(s3.connect) as wire,
        room.ingestion(**environment(bucket, wire.port, spool)) as ingestion,
    ):
        yield InS3(room, ingestion, wire, s3, bucket, spool)


@pytest.fixture
def there(shared: InS3) -> InS3:
    """The running service, with a project of its own."""
    shared.ingestion.project_id = new_id("prj")
    return shared


async def test_a_document_in_s3_becomes_ready_and_its_copy_is_gone(there: InS3) -> None:
    data = text_of(20)
    document = (await there.ingestion.upload(data)).document
    assert (await there.ingestion.settled(document.id)).state == READY
    assert " ".join(there.room.retrieval.texts(document.id)) == data.decode()
    (name,) = there.holds()
    assert name.startswith(f"documents/{there.ingestion.project_id}/blob_")
    assert there.temporary() == []


async def test_an_upload_to_an_s3_that_is_away_is_refused_and_taken_later(there: InS3) -> None:
    data = text_of(5)
    there.wire.cut()
    with pytest.raises(Unavailable) as refused:
        await there.ingestion.upload(data)
    assert refused.value.reason == "BLOB_STORE_UNAVAILABLE"
    there.wire.mend()
    document = (await there.ingestion.upload(data)).document
    assert (await there.ingestion.settled(document.id)).state == READY
    assert len(there.holds()) == 1


async def test_an_upload_whose_client_goes_away_leaves_nothing(there: InS3) -> None:
    gone = asyncio.Event()

    async def parts() -> AsyncIterator[v1.UploadDocumentRequest]:
        metadata = v1.DocumentMetadata(file_name="x.txt")
        start = v1.UploadStart(metadata=metadata, request_id=new_id("req"))
        yield v1.UploadDocumentRequest(start=start)
        for _ in range(2 * PART_BYTES // (1 << 20)):
            yield v1.UploadDocumentRequest(data=b"a line of text\n" * 69_000)
        await gone.wait()

    async def begun() -> bool:
        return bool(await asyncio.to_thread(there.holds))

    async def over() -> bool:
        return not await asyncio.to_thread(there.holds)

    async def upload() -> None:
        with acting_as(there.ingestion.caller()):
            await there.ingestion.stub.UploadDocument(parts(), timeout=60)

    task = asyncio.create_task(upload())
    await eventually(begun)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await eventually(over)


async def test_a_document_waits_while_s3_is_away_and_says_why(there: InS3) -> None:
    there.room.retrieval.gate.clear()
    first = (await there.ingestion.upload(text_of(5))).document
    second = (await there.ingestion.upload(text_of(5))).document
    waiting = (await there.ingestion.upload(text_of(5))).document
    there.wire.cut()
    there.room.retrieval.gate.set()
    for document in (first, second):
        assert (await there.ingestion.settled(document.id)).state == READY

    async def held() -> bool:
        found = await there.ingestion.get(waiting.id)
        return found.error.reason == "BLOB_STORE_UNAVAILABLE"

    await eventually(held)
    there.wire.mend()
    ready = await there.ingestion.settled(waiting.id)
    assert (ready.state, ready.error.reason) == (READY, "")


async def test_a_removal_waits_for_s3_and_is_finished_by_itself(there: InS3) -> None:
    document = (await there.ingestion.upload(text_of(5))).document
    await there.ingestion.settled(document.id)
    there.wire.cut()
    with pytest.raises(Unavailable) as refused:
        await there.ingestion.delete(document.id)
    assert refused.value.reason == "BLOB_STORE_UNAVAILABLE"
    assert document.id in there.room.retrieval.removed
    there.wire.mend()
    await eventually(lambda: there.ingestion.gone(document.id))
    assert there.holds() == []


async def test_a_purge_leaves_nothing_in_the_bucket(there: InS3) -> None:
    document = (await there.ingestion.upload(text_of(5))).document
    await there.ingestion.settled(document.id)
    project = there.ingestion.project_id
    there.s3.client.create_multipart_upload(
        Bucket=there.bucket, Key=f"documents/{project}/{new_id('blob')}"
    )
    with acting_as(there.ingestion.caller(scopes=("admin",))):
        receipt = await there.ingestion.stub.PurgeProject(
            v1.PurgeProjectRequest(project_id=project), timeout=30
        )
    assert receipt.files_removed == 1
    assert there.holds() == []
