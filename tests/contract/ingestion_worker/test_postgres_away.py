"""Postgres going away at any moment costs nothing but time."""

from __future__ import annotations

import asyncio

import asyncpg

from citemesh.ingestion import v1
from tests.contract.ingestion_room import Room, text_of
from tests.contract.service_process import eventually

READY, FAILED = v1.DOCUMENT_STATE_READY, v1.DOCUMENT_STATE_FAILED


async def test_postgres_going_away_in_the_middle_loses_nothing(room: Room) -> None:
    data = text_of(200)
    async with room.ingestion() as ingestion, room.slow_writes():
        document = (await ingestion.upload(data)).document
        await eventually(lambda: room.some_indexed(document.id))
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


async def _ready(room: Room, document_id: str) -> bool:
    state = (await room.version(document_id))["state"]
    assert state != "failed"
    return bool(state == "ready")


async def test_a_connection_lost_at_the_last_write_does_not_send_the_document_back(
    room: Room,
) -> None:
    """Retrieval has activated it; what is missing is one row, not another attempt."""
    never = {"CITEMESH_INGESTION_RETRY_LATER_SECONDS": "3600"}
    async with room.ingestion(**never) as ingestion:
        room.retrieval.gate.clear()
        document = (await ingestion.upload(text_of(20))).document
        await eventually(lambda: room.at_stage(document.id, "embed"))
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


async def test_an_outage_of_postgres_costs_a_document_no_start(room: Room) -> None:
    """Leases run out while nobody can give them back; that is no start without progress."""
    settings = {
        "CITEMESH_INGESTION_PATIENCE_SECONDS": "0.2",
        "CITEMESH_INGESTION_RETRY_LATER_SECONDS": "0.2",
        "CITEMESH_INGESTION_MOST_STARTS": "1",
    }
    room.embedding.gate.clear()
    async with room.ingestion(**settings) as ingestion:
        document = (await ingestion.upload(text_of(5))).document
        await eventually(lambda: room.at_stage(document.id, "embed"))
        owner = await asyncpg.connect(room.postgres.owner_dsn)
        await owner.execute("ALTER ROLE citemesh_ingestion CONNECTION LIMIT 0")
        try:
            await owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename = 'citemesh_ingestion'"
            )

            async def out_of_lease() -> bool:
                return bool(
                    await owner.fetchval(
                        "SELECT state <> 'processing' OR lease_expires < now()"
                        " FROM ingestion.document_version WHERE document_id = $1",
                        document.id,
                    )
                )

            await eventually(out_of_lease)
        finally:
            await owner.execute("ALTER ROLE citemesh_ingestion CONNECTION LIMIT -1")
            await owner.close()
        room.embedding.gate.set()
        assert (await ingestion.settled(document.id)).state == READY
