"""Rows that go for good: the purge of a project, and old versions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from meshkit.errors import NotFound
from services.retrieval.deletion import PURGE_LOCK
from tests.contract.retrieval_room import Room, open_room, project_id


@pytest.fixture(scope="module")
async def room(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Room]:
    directory = tmp_path_factory.mktemp("lexical")
    async with open_room(postgres.dsn("retrieval"), postgres.owner_dsn, directory) as opened:
        yield opened


@pytest.fixture
def project() -> str:
    return project_id()


ONLY_THE_ID = {"purged_project": 1}
"""What is left of a project that was purged."""


async def _left(room: Room, project: str) -> dict[str, int]:
    """Rows of a project by table, where there are any."""
    tables = await room.owner.fetch(
        "SELECT table_name FROM information_schema.columns "
        "WHERE table_schema = 'retrieval' AND column_name = 'project_id'"
    )
    assert len(tables) > 7
    found = {}
    for row in tables:
        query = f"SELECT count(*) FROM retrieval.{row['table_name']} WHERE project_id = $1"
        if count := await room.owner.fetchval(query, project):
            found[row["table_name"]] = count
    return found


async def test_retired_versions_without_chunks_hold_up_none_behind_them(
    room: Room, project: str
) -> None:
    await room.owner.execute(
        "INSERT INTO retrieval.retired_version (project_id, document_id, version) "
        "SELECT $1, n::text, 1 FROM generate_series(1, 300) AS n",
        project,
    )
    await room.settle()
    retired = "SELECT count(*) FROM retrieval.retired_version WHERE project_id = $1"
    assert await room.owner.fetchval(retired, project) == 0


async def test_a_purge_leaves_nothing_of_the_project_and_everything_of_others(
    room: Room, project: str
) -> None:
    other = project_id()
    for owner in (project, other):
        await room.add(owner, "doc_1", ["purge me", "or not"], version=1)
        await room.add(owner, "doc_1", ["purge me", "or not"], version=2)
        await room.corpus.remove(owner, "doc_2", 1, "request-1")
    receipt = await room.corpus.purge(project)
    assert (receipt.chunks, receipt.documents) == (4, 2)
    assert await _left(room, project) == ONLY_THE_ID
    assert await room.found(project, "purge") == []
    await room.settle()
    assert len(await room.found(other, "purge")) == 2


async def test_a_purged_project_refuses_late_writes(room: Room, project: str) -> None:
    await room.write(project, "doc_1", ["late"])
    await room.corpus.purge(project)
    for attempt in (
        room.write(project, "doc_1", ["late"], lease=7),
        room.write(project, "doc_2", ["late"]),
        room.activate(project, "doc_1", 1, lease=7),
        room.corpus.remove(project, "doc_1", 7, "request-1"),
    ):
        with pytest.raises(NotFound) as refused:
            await attempt
        assert refused.value.reason == "PROJECT_PURGED"
    assert await _left(room, project) == ONLY_THE_ID
    again = await room.corpus.purge(project)
    assert (again.chunks, again.documents) == (0, 0)
    assert await _left(room, project) == ONLY_THE_ID


async def test_a_write_that_waited_for_a_purge_is_refused(room: Room, project: str) -> None:
    waiting = (
        "SELECT EXISTS (SELECT FROM pg_locks "
        "WHERE locktype = 'advisory' AND classid::bigint = $1 AND NOT granted)"
    )
    async with asyncio.timeout(30):
        async with room.owner.transaction():
            await room.owner.execute(
                "SELECT pg_advisory_xact_lock($1, hashtext($2))", PURGE_LOCK, project
            )
            late = asyncio.create_task(room.write(project, "doc_1", ["late"]))
            while not await room.owner.fetchval(waiting, PURGE_LOCK):
                await asyncio.sleep(0.01)
            await room.owner.execute("INSERT INTO retrieval.purged_project VALUES ($1)", project)
        with pytest.raises(NotFound):
            await late
    assert await _left(room, project) == ONLY_THE_ID


async def test_a_purge_among_writers_leaves_none_of_their_rows(room: Room, project: str) -> None:
    """Whatever overtakes whatever: a write is removed with the rest, or refused."""
    await room.add(project, "doc_0", ["there before"])
    first_written = asyncio.Event()

    async def write(document: str) -> None:
        while True:
            await room.write(project, document, ["among others"])
            first_written.set()
            await room.activate(project, document, 1)

    writers = [asyncio.create_task(write(f"doc_{n}")) for n in range(1, 4)]
    async with asyncio.timeout(30):
        await first_written.wait()
        await room.corpus.purge(project)
        ends = await asyncio.gather(*writers, return_exceptions=True)
    assert [end.reason for end in ends if isinstance(end, NotFound)] == ["PROJECT_PURGED"] * 3
    assert await _left(room, project) == ONLY_THE_ID
