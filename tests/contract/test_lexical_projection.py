"""The lexical index follows Postgres: through crashes, replays, losses and rebuilds."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.retrieval.lexical import Changes, VersionKey
from services.retrieval.lexical.home import CURRENT, open_home, open_index
from services.retrieval.lexical.tantivy_index import TantivyIndex
from services.retrieval.outbox import LexicalProjection
from services.retrieval.passages import Mode
from services.retrieval.search import Query
from tests.contract.retrieval_room import Room, open_room, project_id


def words(text: str) -> Query:
    return Query(text, mode=Mode.LEXICAL, rerank=False, top_k=100)


@pytest.fixture
async def room(postgres: Any, tmp_path: Path) -> AsyncIterator[Room]:
    async with open_room(postgres.dsn("retrieval"), postgres.owner_dsn, tmp_path) as opened:
        yield opened


@pytest.fixture
def project() -> str:
    return project_id()


async def waiting(room: Room, project: str) -> int:
    count: int = await room.owner.fetchval(
        "SELECT count(*) FROM retrieval.lexical_outbox WHERE project_id = $1", project
    )
    return count


async def test_entries_are_removed_only_after_the_index_committed(
    room: Room, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await room.write(project, "doc_1", ["fragile words"])

    async def fails(changes: Changes) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(room.projection.index, "apply", fails)
        with pytest.raises(OSError, match="disk full"):
            await room.activate(project, "doc_1", 1)
    assert await waiting(room, project) == 1
    assert await room.found(project, words("fragile")) == []
    await room.activate(project, "doc_1", 1)
    assert await room.found(project, words("fragile")) == ["fragile words"]
    assert await waiting(room, project) == 0


async def test_replayed_entries_change_nothing(room: Room, project: str) -> None:
    await room.add(project, "doc_1", ["replayed words"], version=1)
    await room.add(project, "doc_1", ["replayed words too"], version=2)
    await room.settle()
    for version in (2, 1, 2):
        await room.owner.execute(
            "INSERT INTO retrieval.lexical_outbox (project_id, document_id, version) "
            "VALUES ($1, 'doc_1', $2)",
            project,
            version,
        )
    before = room.projection.index.chunk_count  # type: ignore[attr-defined]
    await room.settle()
    assert room.projection.index.chunk_count == before  # type: ignore[attr-defined]
    assert await room.found(project, words("replayed")) == ["replayed words too"]


async def test_the_background_drain_takes_what_nobody_waits_for(room: Room, project: str) -> None:
    await room.add(project, "doc_1", ["removed words"])
    await room.corpus.remove(project, "doc_1", 2, "request-1")
    assert await waiting(room, project) > 0
    drain = asyncio.create_task(room.projection.run(asyncio.Event(), 0.05))
    try:
        async with asyncio.timeout(10):
            while await waiting(room, project):
                continue
    finally:
        drain.cancel()
        await asyncio.gather(drain, return_exceptions=True)


@pytest.mark.parametrize("loss", ["directory", "manifest", "other database", "index files"])
async def test_an_index_that_is_lost_or_not_ours_is_built_anew(
    postgres: Any, tmp_path: Path, project: str, loss: str
) -> None:
    dsns = (postgres.dsn("retrieval"), postgres.owner_dsn, tmp_path / "lexical")
    async with open_room(*dsns) as room:
        await room.add(project, "doc_1", [f"kept words {n}" for n in range(30)])
        await room.add(project, "doc_2", ["hidden words"], allow=["group:hr"])
        current = room.home.current()
        assert current is not None
    if loss == "directory":
        shutil.rmtree(tmp_path / "lexical")
    elif loss == "manifest":
        (tmp_path / "lexical" / CURRENT).write_text("{half")
    elif loss == "other database":
        path = tmp_path / "lexical" / CURRENT
        path.write_text(path.read_text().replace('"generation": "', '"generation": "0'))
    else:
        (current / "meta.json").write_text("not an index")
    async with open_room(*dsns) as room:
        assert room.home.current() not in (None, current)
        assert len(list((tmp_path / "lexical").glob("index-*"))) == 1
        assert len(await room.found(project, words("words"))) == 30
        assert await room.found(project, words("hidden"), ["group:hr"]) == ["hidden words"]


async def test_a_restart_opens_the_same_index(postgres: Any, tmp_path: Path, project: str) -> None:
    dsns = (postgres.dsn("retrieval"), postgres.owner_dsn, tmp_path / "lexical")
    async with open_room(*dsns) as room:
        await room.add(project, "doc_1", ["same words"])
        current = room.home.current()
    async with open_room(*dsns) as room:
        assert room.home.current() == current
        assert await room.found(project, words("same")) == ["same words"]


async def test_a_rebuild_happens_beside_the_old_index_and_loses_no_change(
    room: Room, project: str
) -> None:
    for n in range(5):
        await room.add(project, f"doc_{n}", [f"rebuilt words {n}"])
    before = room.home.current()
    seen = []
    async for progress in room.rebuilds.run("rebuild-1"):
        if not seen:
            # While it runs: a document goes, one comes, one gets a new version.
            await room.corpus.remove(project, "doc_0", 2, "request-1")
            await room.add(project, "doc_9", ["rebuilt words 9"])
            await room.add(project, "doc_1", ["rebuilt words 1 again"], version=2)
            await room.settle()
            assert len(await room.found(project, words("rebuilt"))) == 5
        seen.append(progress)
    assert seen[-1].switched
    assert seen[-1].done >= 5
    assert room.home.current() != before
    assert before is not None
    assert not before.exists()
    expected = sorted([f"rebuilt words {n}" for n in (2, 3, 4, 9)] + ["rebuilt words 1 again"])
    assert sorted(await room.found(project, words("rebuilt"))) == expected
    assert room.projection.index.chunk_count >= 5  # type: ignore[attr-defined]
    await room.add(project, "doc_10", ["rebuilt words 10"])
    assert "rebuilt words 10" in await room.found(project, words("rebuilt"))


async def test_a_repeated_rebuild_joins_the_running_one(room: Room, project: str) -> None:
    await room.add(project, "doc_1", ["words"])

    async def watch(request_id: str) -> list[bool]:
        return [progress.switched async for progress in room.rebuilds.run(request_id)]

    first, second = await asyncio.gather(watch("rebuild-1"), watch("rebuild-2"))
    assert first[-1]
    assert second[-1]
    current = room.home.current()
    assert await watch("rebuild-1") == [True]
    assert room.home.current() == current


async def test_what_changed_during_a_rebuild_is_in_the_new_index(
    room: Room, project: str, tmp_path: Path
) -> None:
    """Fills by hand, so that the change surely falls between reading and switching."""
    await room.add(project, "doc_1", ["first words"])
    target = TantivyIndex(tmp_path / "target")
    published: list[bool] = []
    steps = room.projection.rebuild(target, lambda: published.append(True))
    await anext(steps)
    await room.add(project, "doc_2", ["second words"])
    await room.corpus.remove(project, "doc_1", 2, "request-1")
    await room.settle()
    assert not published
    assert [step.switched async for step in steps][-1]
    assert published == [True]
    assert room.projection.index is target
    assert await room.found(project, words("words")) == ["second words"]


async def test_the_entry_of_a_purge_takes_nothing_that_postgres_has(
    room: Room, project: str
) -> None:
    await room.add(project, "doc_1", ["still there"])
    await room.owner.execute(
        "INSERT INTO retrieval.lexical_outbox (project_id, document_id, version) "
        "VALUES ($1, '', 0)",
        project,
    )
    await room.settle()
    assert await room.found(project, words("still")) == ["still there"]


async def test_an_index_built_from_postgres_equals_one_that_followed_it(
    room: Room, project: str, tmp_path: Path
) -> None:
    for n in range(4):
        await room.add(project, f"doc_{n}", [f"equal words {n}", "more of it"], version=1)
        await room.add(project, f"doc_{n}", [f"equal words {n}", "and more"], version=2)
    await room.settle()
    home = await open_home(tmp_path / "second", room.database)
    built = await open_index(home, room.database)
    second = LexicalProjection(room.database, built)
    followed = sorted(await room.found(project, words("equal more")))
    try:
        assert built.chunk_count == room.projection.index.chunk_count  # type: ignore[attr-defined]
        query = VersionKey(project, "doc_0", 2)
        await second.reach(query)
        assert len(followed) == 8
    finally:
        await second.close()
