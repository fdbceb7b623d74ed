"""Documents coming and going: fencing, the live pointer, removal, isolation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import numpy as np
import pytest

from meshkit.errors import Conflict, Fenced, InvalidInput, Precondition
from services.retrieval import reading
from services.retrieval.candidates import Viewer
from services.retrieval.passages import Filter, Mode
from services.retrieval.search import Query
from tests.contract.retrieval_room import SPACE, Room, open_room, project_id


@pytest.fixture(scope="module")
async def room(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Room]:
    directory = tmp_path_factory.mktemp("lexical")
    async with open_room(postgres.dsn("retrieval"), postgres.owner_dsn, directory) as opened:
        yield opened


@pytest.fixture
def project() -> str:
    return project_id()


async def test_an_activated_document_is_found_by_words_and_by_meaning(
    room: Room, project: str
) -> None:
    await room.add(project, "doc_1", ["Employees accrue vacation days.", "Badges open doors."])
    for mode in Mode:
        found = await room.search(project, Query("vacation days", mode=mode, rerank=False))
        assert found.hits[0].chunk.text == "Employees accrue vacation days."
        assert not found.degraded
    assert found.corpus_epoch == 1


async def test_a_version_is_invisible_until_it_is_activated(room: Room, project: str) -> None:
    await room.write(project, "doc_1", ["early bird"])
    assert await room.found(project, "early bird") == []
    await room.activate(project, "doc_1", 1)
    assert await room.found(project, "early bird") == ["early bird"]


async def test_batches_may_come_in_any_order_and_any_number_of_times(
    room: Room, project: str
) -> None:
    assert await room.write(project, "doc_1", ["three", "four"], ordinals=[2, 3]) == 2
    assert await room.write(project, "doc_1", ["one", "two"], ordinals=[0, 1]) == 4
    assert await room.write(project, "doc_1", ["one", "two"], ordinals=[0, 1]) == 4
    await room.activate(project, "doc_1", 4)
    assert await room.write(project, "doc_1", ["one", "two"], ordinals=[0, 1]) == 4
    assert sorted(await room.found(project, "one two three four")) == [
        "four",
        "one",
        "three",
        "two",
    ]


async def test_activation_is_refused_while_chunks_are_missing(room: Room, project: str) -> None:
    await room.write(project, "doc_1", ["one"])
    with pytest.raises(Precondition) as refused:
        await room.activate(project, "doc_1", 2)
    assert refused.value.reason == "CHUNKS_MISSING"
    assert await room.found(project, "one") == []


async def test_chunks_of_an_earlier_attempt_beyond_the_count_are_dropped(
    room: Room, project: str
) -> None:
    await room.write(project, "doc_1", ["alpha", "beta", "leftover"])
    await room.activate(project, "doc_1", 2)
    assert "leftover" not in await room.found(project, "leftover")
    page = await reading.of_document(room.database, Viewer(project, ()), "doc_1", 10, "")
    assert [chunk.text for chunk in page.chunks] == ["alpha", "beta"]


async def test_activating_again_changes_nothing_unless_it_shows_otherwise(
    room: Room, project: str
) -> None:
    first = await room.add(project, "doc_1", ["one"])
    assert await room.activate(project, "doc_1", 1) == first
    assert await room.activate(project, "doc_1", 1, allow=["user:ann"]) == first + 1
    assert await room.found(project, "one") == []
    assert await room.found(project, "one", ["user:ann"]) == ["one"]


async def test_a_document_without_chunks_can_be_live(room: Room, project: str) -> None:
    assert await room.activate(project, "doc_1", 0) == 1


async def test_the_swap_of_versions_is_atomic(room: Room, project: str) -> None:
    """Searches that run during swaps see one version whole, never none and never two."""
    size = 6
    await room.add(project, "doc_1", [f"swap old{n} v1" for n in range(size)])
    stop = asyncio.Event()
    seen: list[set[int]] = []

    async def look() -> None:
        while not stop.is_set():
            found = await room.search(project, Query("swap", rerank=False))
            assert len(found.hits) == size
            seen.append({hit.chunk.version for hit in found.hits})

    watchers = [asyncio.create_task(look()) for _ in range(2)]
    try:
        for version in range(2, 8):
            texts = [f"swap text{n} v{version}" for n in range(size)]
            await room.add(project, "doc_1", texts, version=version)
    finally:
        stop.set()
        await asyncio.gather(*watchers)
    assert all(len(versions) == 1 for versions in seen)
    assert len({frozenset(versions) for versions in seen}) > 1


async def test_a_writer_that_lost_its_lease_is_refused(room: Room, project: str) -> None:
    await room.write(project, "doc_1", ["new"], lease=5)
    for attempt in (
        room.write(project, "doc_1", ["stale"], lease=4),
        room.activate(project, "doc_1", 1, lease=4),
        room.corpus.remove(project, "doc_1", 4, "request-1"),
    ):
        with pytest.raises(Fenced) as refused:
            await attempt
        assert refused.value.reason == "FENCED"
    await room.activate(project, "doc_1", 1, lease=5)
    assert await room.found(project, "new stale") == ["new"]


async def test_an_older_version_cannot_replace_a_newer_one(room: Room, project: str) -> None:
    await room.add(project, "doc_1", ["second"], version=2, lease=1)
    with pytest.raises(Fenced) as refused:
        await room.add(project, "doc_1", ["first"], version=1, lease=9)
    assert refused.value.reason == "VERSION_SUPERSEDED"


async def test_a_deleted_document_never_appears_in_search(room: Room, project: str) -> None:
    await room.add(project, "doc_1", ["doomed text"])
    await room.add(project, "doc_2", ["surviving text"])
    removal = await room.corpus.remove(project, "doc_1", 2, "request-1")
    assert removal.removed
    assert removal.corpus_epoch == 3
    # At once, with the lexical index and the rows still lagging behind ...
    for mode in Mode:
        found = await room.found(project, Query("doomed text", mode=mode, rerank=False))
        assert found == ["surviving text"]
    # ... and when they have caught up.
    await room.settle()
    assert await room.found(project, "doomed text") == ["surviving text"]
    left = await room.owner.fetchval(
        "SELECT count(*) FROM retrieval.chunk WHERE project_id = $1", project
    )
    assert left == 1


async def test_a_removed_document_refuses_late_writes(room: Room, project: str) -> None:
    await room.write(project, "doc_1", ["late"])
    await room.corpus.remove(project, "doc_1", 1, "request-1")
    for attempt in (
        room.write(project, "doc_1", ["late"], lease=7),
        room.activate(project, "doc_1", 1, lease=7),
    ):
        with pytest.raises(Precondition) as refused:
            await attempt
        assert refused.value.reason == "DOCUMENT_REMOVED"


async def test_a_document_removed_before_its_first_chunk_stays_removed(
    room: Room, project: str
) -> None:
    removal = await room.corpus.remove(project, "doc_1", 1, "request-1")
    assert not removal.removed
    with pytest.raises(Precondition):
        await room.write(project, "doc_1", ["late"], lease=2)


async def test_a_replayed_removal_gives_the_first_answer(room: Room, project: str) -> None:
    await room.add(project, "doc_1", ["one"])
    first = await room.corpus.remove(project, "doc_1", 2, "request-1")
    await room.add(project, "doc_2", ["two"])
    assert await room.corpus.remove(project, "doc_1", 2, "request-1") == first
    again = await room.corpus.remove(project, "doc_1", 2, "request-2")
    assert not again.removed
    assert again.corpus_epoch == 3


async def test_a_request_id_of_another_method_is_refused(room: Room, project: str) -> None:
    await room.owner.execute(
        "INSERT INTO retrieval.applied_request VALUES ($1, 'request-1', 'Other', '{}')", project
    )
    with pytest.raises(Conflict):
        await room.corpus.remove(project, "doc_1", 1, "request-1")


async def test_old_versions_are_collected_in_batches(room: Room, project: str) -> None:
    for version in (1, 2, 3):
        texts = [f"text {n} of {version}" for n in range(10)]
        await room.add(project, "doc_1", texts, version=version)
    await room.settle()
    counts = "SELECT count(*), min(version) FROM retrieval.{} WHERE project_id = $1"
    table = await room.spaces.find(SPACE)
    assert table is not None
    number = table.number
    for table in ("chunk", f"dense_{number}"):
        row = await room.owner.fetchrow(counts.format(table), project)
        assert (row["count"], row["min"]) == (10, 3)
    state = "SELECT live_chunks FROM retrieval.project_state WHERE project_id = $1"
    assert await room.owner.fetchval(state, project) == 10
    retired = "SELECT count(*) FROM retrieval.retired_version WHERE project_id = $1"
    assert await room.owner.fetchval(retired, project) == 0


async def test_two_projects_never_mix_even_with_the_same_words(room: Room, project: str) -> None:
    other = project_id()
    await room.add(project, "doc_1", ["the same words here"])
    await room.add(other, "doc_1", ["the same words there"])
    for mode in Mode:
        query = Query("the same words", mode=mode, rerank=False)
        assert await room.found(project, query) == ["the same words here"]
        assert await room.found(other, query) == ["the same words there"]
    page = await reading.by_id(room.database, Viewer(other, ()), ["doc_1.1.0", "doc_1.1.1"])
    assert [chunk.text for chunk in page.chunks] == ["the same words there"]


async def test_the_runtime_role_sees_no_row_without_a_project(room: Room, project: str) -> None:
    await room.add(project, "doc_1", ["hidden"])
    table = await room.spaces.find(SPACE)
    assert table is not None
    number = table.number
    async with room.database.connection() as connection:
        for table in ("document", "chunk", "document_version", "project_state", f"dense_{number}"):
            assert await connection.fetchval(f"SELECT count(*) FROM retrieval.{table}") == 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("DELETE FROM retrieval.space_table")
        # A search leaves no project behind on its connection.
        await connection.fetch(
            "SELECT * FROM retrieval.search_lexical"
            "($1, '{}', 5, 1, 1, '{}', NULL, NULL, NULL, NULL)",
            project,
        )
        assert await connection.fetchval("SELECT count(*) FROM retrieval.chunk") == 0


async def test_row_security_binds_the_owner_of_the_tables_too(room: Room, project: str) -> None:
    await room.add(project, "doc_1", ["so that a dense table exists"])
    tables = await room.owner.fetch(
        "SELECT k.relname, k.relrowsecurity AND k.relforcerowsecurity AS forced FROM pg_class k "
        "JOIN pg_attribute a ON a.attrelid = k.oid AND a.attname = 'project_id' "
        "WHERE k.relnamespace = 'retrieval'::regnamespace AND k.relkind = 'r'"
    )
    assert len(tables) > 7
    assert [row["relname"] for row in tables if not row["forced"]] == []


async def test_a_row_cannot_be_written_into_another_project(room: Room, project: str) -> None:
    async with room.database.project(project) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(
                "INSERT INTO retrieval.document (project_id, document_id, lease_epoch) "
                "VALUES ('prj_other', 'doc_1', 1)"
            )


async def test_vectors_of_another_length_or_without_direction_are_refused(
    room: Room, project: str
) -> None:
    with pytest.raises(Precondition) as refused:
        await room.write(project, "doc_1", ["x"], vectors=np.ones((1, 31), dtype=np.float32))
    assert refused.value.reason == "SPACE_MISMATCH"
    with pytest.raises(InvalidInput) as invalid:
        await room.write(project, "doc_1", ["x"], vectors=np.zeros((1, 32), dtype=np.float32))
    assert invalid.value.reason == "VECTOR_INVALID"
    with pytest.raises(InvalidInput):
        await room.write(project, "doc_1", ["nul \x00 character"])


async def test_vectors_of_two_spaces_never_meet(room: Room, project: str) -> None:
    await room.write(project, "doc_1", ["first space"])
    await room.write(project, "doc_2", ["second space"], space="test/other@32")
    await room.activate(project, "doc_1", 1)
    await room.activate(project, "doc_2", 1)
    query = Query("space", mode=Mode.DENSE, rerank=False)
    assert await room.found(project, query) == ["first space"]
    room.embedder.space = "test/other@32"
    try:
        assert await room.found(project, query) == ["second space"]
    finally:
        room.embedder.space = SPACE


async def test_the_state_of_the_corpus_is_the_one_that_a_search_sees(
    room: Room, project: str
) -> None:
    assert await reading.corpus_epoch(room.database, project) == 0
    await room.add(project, "doc_1", ["a lamp"])
    first = await reading.corpus_epoch(room.database, project)
    assert first == (await room.search(project, "lamp")).corpus_epoch > 0
    await room.add(project, "doc_2", ["a lamp"], allow=["group:hr"])
    assert await reading.corpus_epoch(room.database, project) > first
    assert await reading.corpus_epoch(room.database, f"{project}-other") == 0


async def test_chunks_are_read_by_id_by_document_and_by_project(room: Room, project: str) -> None:
    await room.add(project, "doc_1", [f"text {n}" for n in range(5)])
    await room.add(project, "doc_2", ["hidden"], allow=["group:hr"])
    viewer = Viewer(project, ("user:ann",))
    ids = ["doc_1.1.3", "doc_2.1.0", "doc_1.1.0", "doc_1.2.0", "nonsense", "doc_1.1.3"]
    page = await reading.by_id(room.database, viewer, ids)
    assert [chunk.chunk_id for chunk in page.chunks] == ["doc_1.1.3", "doc_1.1.0"]
    texts, token = [], ""
    while True:
        page = await reading.of_document(room.database, viewer, "doc_1", 2, token)
        texts += [chunk.text for chunk in page.chunks]
        token = page.next_page_token
        if not token:
            break
    assert texts == [f"text {n}" for n in range(5)]
    hidden = await reading.of_document(room.database, viewer, "doc_2", 2, "")
    assert hidden.chunks == []
    everything, token = [], ""
    while True:
        page = await reading.of_project(room.database, project, 4, token)
        everything += [chunk.chunk_id for chunk in page.chunks]
        token = page.next_page_token
        if not token:
            break
    assert everything == [f"doc_1.1.{n}" for n in range(5)] + ["doc_2.1.0"]


@pytest.mark.parametrize("token", ["garbage", "eyJvIjoieCJ9", "e30x"])
async def test_a_foreign_page_token_is_refused(room: Room, project: str, token: str) -> None:
    with pytest.raises(InvalidInput):
        await reading.of_document(room.database, Viewer(project, ()), "doc_1", 2, token)


async def test_filters_hold_in_both_lists(room: Room, project: str) -> None:
    await room.add(project, "doc_1", ["budget plan"], labels={"team": "a"})
    await room.add(project, "doc_2", ["budget plan"], labels={"team": "b"})
    between = await room.owner.fetchval(
        "SELECT activated_at FROM retrieval.document "
        "WHERE project_id = $1 AND document_id = 'doc_2'",
        project,
    )
    cases = [
        (Filter(labels={"team": "a"}), {"doc_1"}),
        (Filter(labels={"team": "c"}), set()),
        (Filter(document_ids=["doc_2", "doc_3"]), {"doc_2"}),
        (Filter(activated_after=between), {"doc_2"}),
        (Filter(activated_before=between), {"doc_1"}),
    ]
    for restrict, expected in cases:
        for mode in Mode:
            query = Query("budget", mode=mode, rerank=False, restrict=restrict)
            found = await room.search(project, query)
            assert {hit.chunk.document_id for hit in found.hits} == expected
