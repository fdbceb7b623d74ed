"""The reconciler finds what the outbox cannot know of, and mends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.retrieval.lexical import Changes, LexicalChunk, LexicalVersion, VersionKey
from services.retrieval.reconcile import Findings, Reconciler
from tests.contract.retrieval_room import Room, open_room, project_id


@pytest.fixture
async def room(postgres: Any, tmp_path: Path) -> AsyncIterator[Room]:
    async with open_room(postgres.dsn("retrieval"), postgres.owner_dsn, tmp_path) as opened:
        yield opened


@pytest.fixture
def project() -> str:
    return project_id()


def stranger(project: str, document: str = "doc_ghost", version: int = 3) -> LexicalVersion:
    chunks = [LexicalChunk(-1, "ghostly words", (), "en")]
    return LexicalVersion(VersionKey(project, document, version), "", {}, (), chunks)


async def reconciled(room: Room, project: str, *, repair: bool = True) -> Findings:
    return await Reconciler(room.database, room.projection).reconcile(
        project_id=project, repair=repair
    )


def shown(findings: Findings) -> list[tuple[str, str, int, int]]:
    return [(d.kind, d.key.document_id, d.expected, d.indexed) for d in findings.differences]


async def test_two_that_agree_are_left_alone(room: Room, project: str) -> None:
    await room.add(project, "doc_1", ["one", "two"])
    await room.add(project, "doc_1", ["three"], version=2)
    await room.activate(project, "doc_empty", 0)
    await room.corpus.remove(project, "doc_gone", 1, "request-1")
    await room.settle()
    findings = await reconciled(room, project)
    assert findings.clean
    assert (findings.versions, findings.differences) == (2, [])


async def test_what_the_index_lost_has_too_much_of_or_should_not_have_is_mended(
    room: Room, project: str
) -> None:
    for name in ("doc_lost", "doc_more", "doc_well"):
        await room.add(project, name, [f"words of {name}", "and more of them"])
    await room.settle()
    index = room.projection.index
    more = stranger(project, "doc_more", 1)
    await index.apply(Changes(delete=[VersionKey(project, "doc_lost", 1)]))
    await index.apply(Changes(replace=[stranger(project), more]))
    expected = [
        ("surplus", "doc_ghost", 0, 1),
        ("missing", "doc_lost", 2, 0),
        ("unequal", "doc_more", 2, 1),
    ]

    looked = await reconciled(room, project, repair=False)
    assert (shown(looked), looked.repaired, looked.clean) == (expected, 0, False)
    assert await index.inventory(project) != {}
    mended = await reconciled(room, project)
    assert (shown(mended), mended.repaired, mended.clean) == (expected, 3, True)
    assert (await reconciled(room, project)).differences == []
    assert await index.inventory(project) == {
        VersionKey(project, name, 1): 2 for name in ("doc_lost", "doc_more", "doc_well")
    }


async def test_a_project_that_postgres_does_not_know_leaves_the_index(
    room: Room, project: str
) -> None:
    await room.projection.index.apply(Changes(replace=[stranger(project)]))
    await Reconciler(room.database, room.projection).reconcile()
    assert project not in await room.projection.index.projects()


async def test_documents_whose_chunks_postgres_lost_are_named(room: Room, project: str) -> None:
    await room.add(project, "doc_1", ["one", "two", "three"])
    await room.add(project, "doc_2", ["four"])
    await room.owner.execute(
        "DELETE FROM retrieval.chunk WHERE project_id = $1 AND body = 'two'", project
    )
    findings = await reconciled(room, project)
    assert findings.incomplete == [(project, "doc_1")]
    assert not findings.clean
    # The index follows Postgres, also where Postgres is poorer.
    assert shown(findings) == [("unequal", "doc_1", 2, 3)]


async def test_work_that_waits_in_the_outbox_is_no_difference(room: Room, project: str) -> None:
    await room.add(project, "doc_1", ["one", "two"])
    await room.corpus.remove(project, "doc_1", 2, "request-2")
    assert await room.projection.index.inventory(project) == {VersionKey(project, "doc_1", 1): 2}
    findings = await reconciled(room, project)
    assert (findings.differences, findings.clean) == ([], True)


async def test_writers_meanwhile_make_no_difference(room: Room, project: str) -> None:
    """Versions come and go while it looks; what it sees of them half done is not reported."""

    async def write(document: str) -> None:
        for version in range(1, 6):
            await room.add(project, document, [f"{document} {version}", "more"], version=version)

    writing = asyncio.gather(*(write(f"doc_{number}") for number in range(4)))
    found: list[Findings] = []
    while not writing.done():
        found.append(await reconciled(room, project))
    await writing
    assert found
    assert [findings.differences for findings in found if findings.differences] == []
