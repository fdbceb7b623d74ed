"""The lexical index follows Postgres: through crashes, replays, losses and rebuilds."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshkit.errors import Internal
from services.retrieval.lexical import Changes, Draft, VersionKey
from services.retrieval.lexical.home import CURRENT, open_home, open_index
from services.retrieval.outbox import LexicalProjection
from services.retrieval.passages import Mode
from services.retrieval.rebuild import Rebuilds
from services.retrieval.search import Query
from tests.contract.retrieval_room import Room, open_room, project_id
from tests.contract.service_process import eventually


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
    async for progress in room.rebuilds.run(f"rebuild-{project}"):
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
    former = before

    async def old_one_is_gone() -> bool:
        return not former.exists()

    # It goes after the switch has been said.
    assert await eventually(old_one_is_gone, 60)
    expected = sorted([f"rebuilt words {n}" for n in (2, 3, 4, 9)] + ["rebuilt words 1 again"])
    assert sorted(await room.found(project, words("rebuilt"))) == expected
    assert room.projection.index.chunk_count >= 5  # type: ignore[attr-defined]
    await room.add(project, "doc_10", ["rebuilt words 10"])
    assert "rebuilt words 10" in await room.found(project, words("rebuilt"))


async def test_a_repeated_rebuild_joins_the_running_one(room: Room, project: str) -> None:
    await room.add(project, "doc_1", ["words"])

    async def watch(request_id: str) -> list[bool]:
        return [progress.switched async for progress in room.rebuilds.run(request_id)]

    first, second = await asyncio.gather(watch(f"1-{project}"), watch(f"2-{project}"))
    assert first[-1]
    assert second[-1]
    current = room.home.current()
    last = await room.owner.fetchval("SELECT request_id FROM retrieval.lexical_rebuild")
    assert await watch(last) == [True]
    assert room.home.current() == current


class SlowHome:
    """A home that lets a test act before the switch."""

    def __init__(self, home: Any, before: Any) -> None:
        self.home, self.before = home, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self.home, name)

    async def fresh(self) -> Draft:
        draft = await self.home.fresh()
        apply = draft.index.apply

        async def after_reading(changes: Changes) -> None:
            await apply(changes)
            if self.before is not None:
                before, self.before = self.before, None
                await before()

        draft.index.apply = after_reading
        return draft


async def test_what_changed_during_a_rebuild_is_in_the_new_index(room: Room, project: str) -> None:
    """Changes after the new index was filled with what there was and before the switch."""
    await room.add(project, "doc_1", ["first words"])
    await room.add(project, "doc_3", ["third words"])
    former = room.projection.index

    async def meanwhile() -> None:
        await room.add(project, "doc_2", ["second words"])
        await room.add(project, "doc_3", ["third words again"], version=2)
        await room.corpus.remove(project, "doc_1", 2, "request-1")
        await room.settle()
        assert room.projection.index is former

    rebuilds = Rebuilds(SlowHome(room.home, meanwhile), room.database, room.projection)
    assert [step.switched async for step in rebuilds.run(f"rebuild-{project}")][-1]
    await rebuilds.close()
    assert room.projection.index is not former
    assert sorted(await room.found(project, words("words"))) == [
        "second words",
        "third words again",
    ]


async def test_a_rebuild_of_a_process_that_died_is_taken_over(room: Room, project: str) -> None:
    await room.add(project, "doc_1", ["words"])
    half = await room.home.fresh()
    await half.index.close()
    await room.owner.execute(
        "INSERT INTO retrieval.lexical_rebuild AS r (token, request_id, state, draft, beat_at) "
        "VALUES (gen_random_uuid(), 'dead', 'running', $1, now() - interval '1 hour') "
        "ON CONFLICT (only_row) DO UPDATE SET token = excluded.token, state = 'running', "
        "draft = excluded.draft, beat_at = excluded.beat_at, request_id = 'dead'",
        half.name,
    )
    assert [step.switched async for step in room.rebuilds.run(f"rebuild-{project}")][-1]
    await room.rebuilds.close()
    assert await room.found(project, words("words")) == ["words"]
    assert not (room.home.root / half.name).exists()


async def test_a_version_that_the_index_refuses_holds_up_no_other(
    room: Room, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = room.projection.index.apply

    async def refuses(changes: Changes) -> None:
        if any(version.key.document_id == "doc_bad" for version in changes.replace):
            raise Internal("LEXICAL_REJECTED", "no")
        await apply(changes)

    monkeypatch.setattr(room.projection.index, "apply", refuses)
    for document in ("doc_bad", "doc_1", "doc_2"):
        await room.write(project, document, ["some words"])
    bad = asyncio.create_task(room.activate(project, "doc_bad", 1))
    await asyncio.gather(*(room.activate(project, name, 1) for name in ("doc_1", "doc_2")))
    with pytest.raises(Internal) as refused:
        await bad
    assert refused.value.reason == "LEXICAL_REJECTED"
    assert len(await room.found(project, words("some"))) == 2
    assert await waiting(room, project) == 1
    monkeypatch.undo()
    await room.activate(project, "doc_bad", 1)
    assert len(await room.found(project, words("some"))) == 3


async def test_of_one_document_one_process_is_at_work_at_a_time(
    room: Room, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second projection over the same database is what a second replica has."""
    other = LexicalProjection(room.database, room.projection.index)
    apply = room.projection.index.apply
    at_work: list[VersionKey] = []
    together: list[VersionKey] = []

    async def watched(changes: Changes) -> None:
        keys = [*changes.delete, *(version.key for version in changes.replace)]
        together.extend(key for key in keys if key.document_id in {w.document_id for w in at_work})
        at_work.extend(keys)
        await asyncio.sleep(0.01)
        await apply(changes)
        for key in keys:
            at_work.remove(key)

    monkeypatch.setattr(room.projection.index, "apply", watched)
    for _ in range(5):
        for n in range(8):
            await room.owner.execute(
                "INSERT INTO retrieval.lexical_outbox (project_id, document_id, version) "
                "VALUES ($1, $2, 1), ($1, $2, 2)",
                project,
                f"doc_{n}",
            )
        while await waiting(room, project):
            await asyncio.gather(room.projection.drain(3), other.drain(3), room.projection.drain(2))
    assert not together


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
