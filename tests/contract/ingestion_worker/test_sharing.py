"""What is shared fairly, and what is bounded: hands, calls to the provider, watchers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta

import asyncpg
import pytest

from citemesh.ingestion import v1
from meshkit.channel import streaming
from meshkit.context import acting_as
from meshkit.database.pool import Database
from meshkit.errors import LimitExceeded, Unavailable
from meshkit.ids import new_id
from services.ingestion.queue import Queue
from tests.contract.ingestion_room import Ingestion, Room, text_of
from tests.contract.service_process import eventually

READY = v1.DOCUMENT_STATE_READY
AWAY = Unavailable("PROVIDER_UNAVAILABLE", "down")
LEASE = """
    SELECT state, lease_epoch AS epoch, lease_expires FROM ingestion.document_version
    WHERE document_id = $1
"""


async def fill(room: Room, project: str, documents: int) -> None:
    """Puts documents of a project into the queue, without files."""
    connection = await asyncpg.connect(room.postgres.owner_dsn)
    await connection.execute(
        """
        WITH made AS (
            INSERT INTO ingestion.document (document_id, project_id, latest_version)
            SELECT $1 || n, $1, 1 FROM generate_series(1, $2) AS n RETURNING document_id)
        INSERT INTO ingestion.document_version (
            document_id, version, project_id, file_name, given_title, title, labels, allow,
            blob_key, media_type, size_bytes, sha256, subject, principals, request_id)
        SELECT document_id, 1, $1, 'x.txt', '', '', '{}', '{}', document_id, 'text/plain', 1,
               document_id, 'key:ann', '{}', 'req' FROM made
        """,
        *(project, documents),
    )
    await connection.execute("ANALYZE ingestion.document, ingestion.document_version")
    await connection.close()


async def test_ten_thousand_documents_of_one_project_do_not_starve_one_of_another(
    room: Room,
) -> None:
    crowd, single = new_id("prj"), new_id("prj")
    await fill(room, crowd, 10_000)
    database = await Database.connect(
        room.postgres.dsn("ingestion"), role="citemesh_ingestion", size=2
    )
    queue = Queue(database, owner="test", lease_seconds=30, most_starts=3)
    assert [job.project_id for _ in range(3) if (job := await queue.claim())] == [crowd] * 3
    await fill(room, single, 1)
    claimed = [job.project_id for _ in range(4) if (job := await queue.claim())]
    assert claimed[:2] == [single, crowd]
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(50):
        assert await queue.claim() is not None
    # 2 ms each here; what walks over the whole queue takes a hundred times as long.
    assert loop.time() - began < 5.0
    await database.close()


async def test_a_project_that_holds_every_hand_leaves_one_to_another(room: Room) -> None:
    async with room.ingestion() as ingestion:
        room.embedding.gate.clear()
        large = [(await ingestion.upload(text_of(30))).document.id for _ in range(4)]
        await eventually(lambda: _at_work(room, 2))
        other = Ingestion(ingestion.process, ingestion.stub, ingestion.signer)
        small = (await other.upload(text_of(2))).document.id
        # Nothing of the first project ends before the gate opens; the third hand is free.
        await eventually(lambda: room.at_stage(small, "embed"))
        assert await _at_work(room, 3)
        room.embedding.gate.set()
        for name in large:
            assert (await ingestion.settled(name)).state == READY
        assert (await other.settled(small)).state == READY


async def _at_work(room: Room, hands: int) -> bool:
    connection = await asyncpg.connect(room.postgres.owner_dsn)
    found = await connection.fetchval(
        "SELECT count(*) FROM ingestion.document_version WHERE state = 'processing'"
    )
    await connection.close()
    return bool(found == hands)


async def test_calls_stay_within_what_the_space_takes(room: Room) -> None:
    room.embedding.limits.max_texts_per_call = 3
    room.embedding.limits.max_tokens_per_text = 22
    # 600 tokens at once, 90 a second after that.
    room.embedding.limits.tokens_per_minute = 6000
    async with room.ingestion() as ingestion:
        loop = asyncio.get_running_loop()
        began = loop.time()
        document = (await ingestion.upload(text_of(80))).document
        ready = await ingestion.settled(document.id)
        took = loop.time() - began
    assert ready.state == READY
    assert max(room.embedding.sizes) == 3
    chunks = room.retrieval.chunks[document.id, 1].values()
    tokens = sum(chunk.token_count for chunk in chunks)
    assert max(chunk.token_count for chunk in chunks) <= 20
    assert took >= (tokens - 600) / 90 - 1


async def test_a_batch_that_fails_costs_none_of_the_others(room: Room) -> None:
    data = text_of(200)
    room.embedding.error, room.embedding.fails_at = AWAY, "Sentence 60 "
    settings = {
        "CITEMESH_INGESTION_PATIENCE_SECONDS": "1",
        "CITEMESH_INGESTION_RETRY_LATER_SECONDS": "1",
        "CITEMESH_INGESTION_DOCUMENTS_AT_ONCE": "1",
    }
    async with room.ingestion(**settings) as ingestion:
        document = (await ingestion.upload(data)).document
        await eventually(lambda: _rested(room, document.id))
        # The lanes beside the one that waited went on to the end.
        kept = room.embedding.texts.total()
        assert kept > 20
        room.embedding.error = None
        ready = await ingestion.settled(document.id)
    assert ready.state == READY
    assert " ".join(room.retrieval.texts(document.id)) == data.decode()
    # Nothing was embedded twice.
    assert max(room.embedding.texts.values()) == 1


async def _rested(room: Room, document_id: str) -> bool:
    connection = await asyncpg.connect(room.postgres.owner_dsn)
    found = await connection.fetchrow(
        "SELECT lease_epoch, starts_without_progress AS starts"
        " FROM ingestion.document_version WHERE document_id = $1",
        document_id,
    )
    await connection.close()
    assert found is not None
    assert found["starts"] <= 1
    return bool(found["lease_epoch"] >= 2)


async def test_those_who_only_watch_leave_room_for_calls(room: Room) -> None:
    limits = {
        "CITEMESH_INGESTION_MAX_WATCHES": "5",
        "CITEMESH_INGESTION_MAX_CONCURRENT_RPCS": "3",
    }
    async with room.ingestion(**limits) as ingestion, AsyncExitStack() as stack:
        room.embedding.gate.clear()
        document = (await ingestion.upload(text_of(3))).document
        request = v1.WatchDocumentRequest(document_id=document.id)
        with acting_as(ingestion.caller()):
            watching = [
                await stack.enter_async_context(
                    streaming(ingestion.stub.WatchDocument(request, timeout=60))
                )
                for _ in range(5)
            ]
            for stream in watching:
                await stream.read()
            one_more = ingestion.stub.WatchDocument(request, timeout=60)
            with pytest.raises(LimitExceeded) as refused:
                await one_more.read()
        assert refused.value.reason == "SERVICE_BUSY"
        assert (await ingestion.get(document.id)).id == document.id
        room.embedding.gate.set()
        for stream in watching:
            *_, last = [message async for message in stream]
            assert last.document.state == READY


async def test_a_watcher_sees_what_another_process_does(room: Room) -> None:
    room.embedding.gate.clear()
    idle = {"CITEMESH_INGESTION_POLL_SECONDS": "60"}
    async with room.ingestion() as worker, room.ingestion(**idle) as other:
        document = (await worker.upload(text_of(3))).document
        with acting_as(worker.caller()):
            request = v1.WatchDocumentRequest(document_id=document.id)
            async with streaming(other.stub.WatchDocument(request, timeout=30)) as stream:
                await stream.read()
                room.embedding.gate.set()
                async with asyncio.timeout(10):
                    *_, last = [message async for message in stream]
    assert last.document.state == READY


async def test_callers_that_wait_for_connections_cost_a_worker_no_lease(room: Room) -> None:
    async with room.ingestion(CITEMESH_INGESTION_DATABASE_POOL_SIZE="2") as ingestion:
        room.embedding.gate.clear()
        document = (await ingestion.upload(text_of(30))).document
        await eventually(lambda: room.at_stage(document.id, "embed"))
        owner = await asyncpg.connect(room.postgres.owner_dsn)
        async with owner.transaction():
            # Every upload waits for this lock, and holds a connection meanwhile.
            await owner.execute("LOCK ingestion.purged_project IN ACCESS EXCLUSIVE MODE")
            held = await owner.fetchrow(LEASE, document.id)
            waiting = [asyncio.create_task(ingestion.upload(text_of(2))) for _ in range(4)]

            async def extended_past_its_end() -> bool:
                found = await owner.fetchrow(LEASE, document.id)
                assert (found["state"], found["epoch"]) == ("processing", held["epoch"])
                return bool(found["lease_expires"] > held["lease_expires"] + timedelta(seconds=3))

            await eventually(extended_past_its_end)
            assert not any(upload.done() for upload in waiting)
        await owner.close()
        room.embedding.gate.set()
        for upload in waiting:
            assert (await ingestion.settled((await upload).document.id)).state == READY
        assert (await ingestion.settled(document.id)).state == READY


async def test_a_full_queue_refuses_an_upload_before_its_file_is_sent(room: Room) -> None:
    async with room.ingestion(CITEMESH_INGESTION_QUEUE_LIMIT="1") as ingestion:
        room.embedding.gate.clear()
        data, request_id = text_of(3), new_id("req")
        first = (await ingestion.upload(data, request_id=request_id)).document
        start = v1.UploadStart(
            metadata=v1.DocumentMetadata(file_name="x.txt"), request_id=new_id("req")
        )
        never = asyncio.Event()

        async def parts() -> AsyncIterator[v1.UploadDocumentRequest]:
            yield v1.UploadDocumentRequest(start=start)
            await never.wait()

        with acting_as(ingestion.caller()), pytest.raises(LimitExceeded) as refused:
            await ingestion.stub.UploadDocument(parts(), timeout=10)
        assert (refused.value.reason, refused.value.retry_after) == ("QUEUE_FULL", 60.0)
        # The request that filled it may be repeated all the same.
        again = await ingestion.upload(data, request_id=request_id)
        assert (again.document.id, again.existing) == (first.id, True)
