"""The leased queue alone: claims, epochs, turns, starts without progress."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from citemesh.ingestion import v1
from meshkit.database.pool import Database
from meshkit.ids import new_id
from services.ingestion.catalogue import Catalogue
from services.ingestion.documents import Metadata, StoredFile
from services.ingestion.queue import LeaseLost, Queue
from tests.contract.ingestion_room import Room
from tests.contract.service_process import Keys, eventually

READY, FAILED = v1.DOCUMENT_STATE_READY, v1.DOCUMENT_STATE_FAILED


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


async def test_what_was_written_while_postgres_clock_was_ahead_is_claimed_at_once(
    room: Room, database: Database
) -> None:
    project = new_id("prj")
    held, leased = [await add(database, room.keys, project) for _ in range(2)]
    queue = queue_of(database, seconds=60)
    first, second = await queue.claim(), await queue.claim()
    assert first is not None
    assert second is not None
    await queue.hold(first, "X", "x", 60)
    assert await queue.claim() is None
    owner = await asyncpg.connect(room.postgres.owner_dsn)
    try:
        # As if the hour between writing and now had not gone by, but been set back.
        await owner.execute(
            "UPDATE ingestion.document_version SET queued_at = queued_at + interval '1 hour',"
            " lease_expires = lease_expires + interval '1 hour',"
            " not_before = not_before + interval '1 hour',"
            " updated_at = updated_at + interval '1 hour' WHERE project_id = $1",
            project,
        )
        await owner.execute(
            "UPDATE ingestion.project_turn SET claimed_at = claimed_at + interval '1 hour'"
            " WHERE project_id = $1",
            project,
        )
    finally:
        await owner.close()
    again = [await queue.claim() for _ in range(2)]
    assert {job.document_id for job in again if job} == {held, leased}
    assert await queue.claim() is None
    with pytest.raises(LeaseLost):
        await queue.extend(second, "embed", 1, 2)


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
    found = await room.version(document_id)
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


async def test_a_version_that_is_begun_anew_keeps_what_its_project_had_chosen(
    room: Room, database: Database
) -> None:
    project = new_id("prj")
    document_id = await add(database, room.keys, project)
    owner = await asyncpg.connect(room.postgres.owner_dsn)
    await owner.execute(
        "UPDATE ingestion.document_version SET chunk_tokens = 80, chunk_overlap_tokens = 9"
        " WHERE document_id = $1",
        document_id,
    )
    await owner.close()
    queue = queue_of(database)
    first = await queue.claim()
    assert first is not None
    await queue.restart(first)
    second = await queue.claim()
    assert second is not None
    assert (second.version, second.chunk_tokens, second.chunk_overlap_tokens) == (2, 80, 9)


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
