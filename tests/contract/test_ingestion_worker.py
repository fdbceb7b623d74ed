"""The leased state machine under faults: nothing is lost, doubled, or stuck for ever."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from citemesh.ingestion import v1
from meshkit.context import acting_as
from meshkit.database.pool import Database
from meshkit.errors import Internal, MeshError, Precondition, Unavailable
from meshkit.ids import new_id
from services.ingestion.catalogue import Catalogue
from services.ingestion.documents import Metadata, StoredFile
from services.ingestion.queue import LeaseLost, Queue
from tests.contract.ingestion_room import DOWN, Ingestion, Room, open_room, text_of
from tests.contract.service_process import Keys, eventually

READY, FAILED = v1.DOCUMENT_STATE_READY, v1.DOCUMENT_STATE_FAILED


@pytest.fixture
async def room(postgres: Any, tmp_path: Path) -> AsyncIterator[Room]:
    """Neighbours, and a queue that holds nothing of another test."""
    connection = await asyncpg.connect(postgres.owner_dsn)
    await connection.execute("TRUNCATE ingestion.document CASCADE")
    await connection.close()
    async with open_room(postgres, tmp_path) as opened:
        yield opened


@pytest.fixture
async def database(room: Room) -> AsyncIterator[Database]:
    opened = await Database.connect(
        room.postgres.dsn("ingestion"), role="citemesh_ingestion", size=4
    )
    yield opened
    await opened.close()


def queue_of(database: Database, *, seconds: float = 30, most_starts: int = 3) -> Queue:
    return Queue(database, owner="test", lease_seconds=seconds, most_starts=most_starts)


async def add(database: Database, keys: Keys, project_id: str) -> str:
    file = StoredFile(f"{project_id}/{new_id('blob')}", "text/plain", 1, new_id("sha"))
    added = await Catalogue(database, 1000).add(
        keys.user(project_id, "write"),
        file,
        Metadata("x.txt", "", {}, ()),
        document_id="",
        request_id=new_id("req"),
    )
    return added.document.document_id


async def row(room: Room, document_id: str) -> asyncpg.Record:
    connection = await asyncpg.connect(room.postgres.owner_dsn)
    try:
        found = await connection.fetchrow(
            "SELECT * FROM ingestion.document_version WHERE document_id = $1"
            " ORDER BY version DESC LIMIT 1",
            document_id,
        )
    finally:
        await connection.close()
    assert found is not None
    return found


async def some_indexed(room: Room, document_id: str) -> bool:
    return (await row(room, document_id))["indexed"] >= 4


class _SlowRetrieval:
    """Lets one write through at a time, so that a test can step in between."""

    def __init__(self, room: Room) -> None:
        self._room = room

    async def __aenter__(self) -> None:
        original = self._room.retrieval.IndexChunks

        async def slow(request: Any, context: Any) -> Any:
            await asyncio.sleep(0.05)
            return await original(request, context)

        self._room.retrieval.IndexChunks = slow  # type: ignore[method-assign]

    async def __aexit__(self, *_: object) -> None:
        del self._room.retrieval.IndexChunks


async def test_a_killed_workers_document_is_resumed_without_the_batches_it_had(room: Room) -> None:
    data = text_of(200)
    # Leaving the block sends SIGTERM, for which it is too late by then.
    with suppress(ProcessLookupError):
        async with room.ingestion() as first, _SlowRetrieval(room):
            document = (await first.upload(data)).document
            await eventually(lambda: some_indexed(room, document.id))
            first.process.process.send_signal(signal.SIGKILL)
            await first.process.process.wait()
    before = (await row(room, document.id))["indexed"]
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
        await eventually(lambda: _leased(room, document.id))
    found = await row(room, document.id)
    assert (found["state"], found["lease_owner"]) == ("queued", "")
    assert found["starts_without_progress"] == 0


async def _leased(room: Room, document_id: str) -> bool:
    return (await row(room, document_id))["stage"] == "embed"


async def test_a_frozen_worker_is_fenced_when_it_wakes(room: Room) -> None:
    data = text_of(200)
    async with room.ingestion() as one, room.ingestion() as two, _SlowRetrieval(room):
        two.project_id = one.project_id
        document = (await one.upload(data)).document
        await eventually(lambda: some_indexed(room, document.id))
        started = await _said(one, "document started", document.id)
        frozen, other = (one, two) if started else (two, one)
        assert not await _said(other, "document started", document.id)
        frozen.process.process.send_signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(30):
                ready = await other.settled(document.id)
        finally:
            frozen.process.process.send_signal(signal.SIGCONT)
        assert ready.state == READY
        # A call of its own shows that the woken one is awake again.
        await frozen.get(document.id)
        await eventually(lambda: _said(frozen, "document given up", document.id))
        assert (await row(room, document.id))["state"] == "ready"
    assert " ".join(room.retrieval.texts(document.id)) == data.decode()
    assert [a.document.document_id for a in room.retrieval.activations].count(document.id) == 1


async def _said(ingestion: Ingestion, event: str, document_id: str) -> bool:
    return any(event in line and document_id in line for line in ingestion.process.lines)


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
    found = await row(room, document_id)
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

        # Long enough to be caught at it, also by a busy machine; it is never embedded then.
        data = text_of(5 if state == READY else 20_000)
        document = (await ingestion.upload(data)).document
        for _ in range(deaths):
            await eventually(one_more)
        found = await ingestion.settled(document.id)
    assert found.state == state
    if state == FAILED:
        assert found.error.reason == "EXTRACTION_MEMORY"


async def test_chunks_that_retrieval_lost_are_indexed_again(room: Room) -> None:
    data = text_of(60)
    async with room.ingestion() as ingestion:
        room.retrieval.gate.clear()
        document = (await ingestion.upload(data)).document
        await eventually(lambda: _leased(room, document.id))
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
    async with room.ingestion() as ingestion, _SlowRetrieval(room):
        document = (await ingestion.upload(data)).document
        await eventually(lambda: some_indexed(room, document.id))
    assert (await row(room, document.id))["state"] == "queued"
    async with room.ingestion(CITEMESH_INGESTION_CHUNK_TOKENS="80") as second:
        second.project_id = ingestion.project_id
        await eventually(lambda: _version(second, document.id, 2))
        ready = await second.settled(document.id)
    assert (ready.state, ready.version, ready.live_version) == (READY, 2, 2)
    assert " ".join(room.retrieval.texts(document.id, 2)) == data.decode()


async def _version(ingestion: Ingestion, document_id: str, version: int) -> bool:
    return (await ingestion.get(document_id)).version == version


async def test_postgres_going_away_in_the_middle_loses_nothing(room: Room) -> None:
    data = text_of(200)
    async with room.ingestion() as ingestion, _SlowRetrieval(room):
        document = (await ingestion.upload(data)).document
        await eventually(lambda: some_indexed(room, document.id))
        connection = await asyncpg.connect(room.postgres.owner_dsn)
        for _ in range(3):
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename = 'citemesh_ingestion'"
            )
            await asyncio.sleep(0.1)
        await connection.close()
        assert await eventually(lambda: _ready(room, document.id))
    assert " ".join(room.retrieval.texts(document.id)) == data.decode()


async def test_an_outage_of_postgres_longer_than_a_lease_costs_no_start(room: Room) -> None:
    async with room.ingestion(CITEMESH_INGESTION_LEASE_SECONDS="1") as ingestion:
        room.embedding.gate.clear()
        document = (await ingestion.upload(text_of(20))).document
        await eventually(lambda: _leased(room, document.id))
        before = await row(room, document.id)
        owner = await asyncpg.connect(room.postgres.owner_dsn)
        await owner.execute("ALTER ROLE citemesh_ingestion CONNECTION LIMIT 0")
        try:
            await owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename = 'citemesh_ingestion'"
            )
            await eventually(lambda: _said(ingestion, "another service stays away", document.id))
        finally:
            await owner.execute("ALTER ROLE citemesh_ingestion CONNECTION LIMIT -1")
            await owner.close()

        async def resumed() -> asyncpg.Record | None:
            found = await row(room, document.id)
            return found if found["lease_epoch"] > before["lease_epoch"] else None

        found = await eventually(resumed)
        assert found is not None
        assert found["starts_without_progress"] == before["starts_without_progress"] == 1


async def test_a_connection_lost_at_the_last_write_does_not_send_the_document_back(
    room: Room,
) -> None:
    """Retrieval has activated it; what is missing is one row, not another attempt."""
    never = {"CITEMESH_INGESTION_RETRY_LATER_SECONDS": "3600"}
    async with room.ingestion(**never) as ingestion:
        room.retrieval.gate.clear()
        document = (await ingestion.upload(text_of(20))).document
        owner = await asyncpg.connect(room.postgres.owner_dsn)
        async with owner.transaction():
            # Only the last write wants this row.
            await owner.execute(
                "SELECT FROM ingestion.document WHERE document_id = $1 FOR UPDATE", document.id
            )
            room.retrieval.gate.set()

            async def cut_off() -> bool:
                return bool(
                    await owner.fetchval(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE usename = 'citemesh_ingestion' AND wait_event_type = 'Lock'"
                    )
                )

            await eventually(cut_off)
        await owner.close()
        await eventually(lambda: _ready(room, document.id))
    assert len(room.retrieval.activations) == 1


async def _ready(room: Room, document_id: str) -> bool:
    state = (await row(room, document_id))["state"]
    assert state != "failed"
    return bool(state == "ready")


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
        with acting_as(second.caller()):
            request = v1.ReprocessDocumentRequest(document_id=document.id, request_id=new_id("req"))
            await second.stub.ReprocessDocument(request, timeout=10)
        assert (await second.settled(document.id)).state == READY


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
    assert (await row(room, document.id))["state"] == "queued"


async def test_projects_take_turns(room: Room, database: Database) -> None:
    crowd, single = new_id("prj"), new_id("prj")
    for _ in range(20):
        await add(database, room.keys, crowd)
    lonely = await add(database, room.keys, single)
    queue = queue_of(database)
    claimed = [await queue.claim() for _ in range(3)]
    assert lonely in [job.document_id for job in claimed if job]


async def test_every_version_is_claimed_once_however_many_ask(
    room: Room, database: Database
) -> None:
    project = new_id("prj")
    names = {await add(database, room.keys, project) for _ in range(12)}
    queue = queue_of(database)
    claimed: list[str] = []

    async def worker() -> None:
        while (job := await queue.claim()) is not None:
            claimed.append(job.document_id)

    await asyncio.gather(*(worker() for _ in range(4)))
    assert sorted(claimed) == sorted(names)


async def test_a_lease_that_ran_out_can_be_claimed_with_a_higher_epoch(
    room: Room, database: Database
) -> None:
    await add(database, room.keys, new_id("prj"))
    queue = queue_of(database, seconds=0.05)
    first = await queue.claim()
    assert first is not None

    async def again() -> Any:
        return await queue.claim()

    second = await eventually(again)
    assert second.document_id == first.document_id
    assert second.lease_epoch > first.lease_epoch
    for write in (
        queue.extend(first, "embed", 1, 2),
        queue.keep(first, 0, 4),
        queue.fail(first, "X", "x"),
        queue.finish(first),
        queue.give_back(first),
    ):
        with pytest.raises(LeaseLost):
            await write


async def test_a_claim_waits_for_nobody_and_takes_no_epoch_without_a_lease(
    room: Room, database: Database
) -> None:
    """A worker extends its lease, or froze doing so, while another claims."""
    project = new_id("prj")
    written = await add(database, room.keys, project)
    short, queue = queue_of(database, seconds=0.2), queue_of(database)
    mine = await short.claim()
    assert mine is not None
    other = await add(database, room.keys, project)
    owner = await asyncpg.connect(room.postgres.owner_dsn)
    try:
        async with owner.transaction():
            # As the worker's own write, that has the row and is not committed yet.
            await owner.execute(
                "UPDATE ingestion.document_version SET lease_expires = now() + interval '1 minute'"
                " WHERE document_id = $1",
                written,
            )
            await eventually(lambda: _ran_out(room, written))
            async with asyncio.timeout(5):
                claimed = await queue.claim()
                assert claimed is not None
                assert claimed.document_id == other
                assert await queue.claim() is None
        assert await queue.claim() is None
        epoch = await owner.fetchval(
            "SELECT lease_epoch FROM ingestion.document WHERE document_id = $1", written
        )
    finally:
        await owner.close()
    assert epoch == mine.lease_epoch
    await queue.keep(mine, 0, 4)


async def _ran_out(room: Room, document_id: str) -> bool:
    connection = await asyncpg.connect(room.postgres.owner_dsn)
    found = await connection.fetchval(
        "SELECT lease_expires < now() FROM ingestion.document_version WHERE document_id = $1",
        document_id,
    )
    await connection.close()
    return bool(found)


async def test_a_poison_document_is_given_up_after_its_starts_without_progress(
    room: Room, database: Database
) -> None:
    document_id = await add(database, room.keys, new_id("prj"))
    queue = queue_of(database, most_starts=3)
    for _ in range(3):
        job = await queue.claim()
        assert job is not None
        await queue.give_back(job, counted=True)
    assert await queue.claim() is None
    found = await row(room, document_id)
    assert (found["state"], found["error_reason"]) == ("failed", "NO_PROGRESS")


async def test_progress_forgives_earlier_starts(room: Room, database: Database) -> None:
    await add(database, room.keys, new_id("prj"))
    queue = queue_of(database, most_starts=2)
    for count in range(1, 6):
        job = await queue.claim()
        assert job is not None
        await queue.keep(job, count - 1, count)
        await queue.give_back(job, counted=True)


async def test_versions_of_one_document_are_processed_one_after_the_other(
    room: Room, database: Database
) -> None:
    project = new_id("prj")
    document_id = await add(database, room.keys, project)
    queue = queue_of(database)
    first = await queue.claim()
    assert first is not None
    catalogue = Catalogue(database, 1000)
    await catalogue.reprocess(room.keys.user(project, "write"), document_id, new_id("req"))
    assert await queue.claim() is None
    await queue.finish(first)
    second = await queue.claim()
    assert second is not None
    assert (second.version, second.lease_epoch > first.lease_epoch) == (2, True)


async def test_a_full_queue_refuses_more(room: Room, database: Database) -> None:
    from meshkit.errors import LimitExceeded

    project = new_id("prj")
    await add(database, room.keys, project)
    file = StoredFile(f"{project}/blob", "text/plain", 1, new_id("sha"))
    with pytest.raises(LimitExceeded) as refused:
        await Catalogue(database, 1).add(
            room.keys.user(project, "write"),
            file,
            Metadata("x.txt", "", {}, ()),
            document_id="",
            request_id=new_id("req"),
        )
    assert refused.value.reason == "QUEUE_FULL"
