"""The blob store: whole blobs or none, and nothing outside of its directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.ingestion.blobs import BlobStore, new_key, open_store


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return open_store((tmp_path / "blobs").as_uri())


async def put(store: BlobStore, key: str, data: bytes = b"data") -> None:
    async with store.create(key) as writer:
        await writer.write(data)
        await writer.commit()


def files(tmp_path: Path) -> list[Path]:
    return [path for path in tmp_path.rglob("*") if path.is_file()]


async def test_a_committed_blob_is_read_back_whole(store: BlobStore) -> None:
    key = new_key("prj_1")
    async with store.create(key) as writer:
        await writer.write(b"a" * 100_000)
        await writer.write(b"b")
        await writer.commit()
    async with store.local(key) as path:
        assert path.read_bytes() == b"a" * 100_000 + b"b"


async def test_a_blob_that_was_not_committed_leaves_nothing(
    store: BlobStore, tmp_path: Path
) -> None:
    async def breaking_off() -> None:
        async with store.create(new_key("prj_1")) as writer:
            await writer.write(b"half")
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await breaking_off()
    assert files(tmp_path) == []


async def test_a_blob_that_is_not_there_is_said_to_be_missing(store: BlobStore) -> None:
    with pytest.raises(FileNotFoundError):
        async with store.local(new_key("prj_1")):
            pass
    assert await store.delete(new_key("prj_1")) is False


async def test_deleting_a_project_takes_its_blobs_and_no_others(
    store: BlobStore, tmp_path: Path
) -> None:
    for project in ("prj_1", "prj_1", "prj_2"):
        await put(store, new_key(project))
    assert await store.delete_project("prj_1") == 2
    assert await store.delete_project("prj_1") == 0
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("project", ["../escape", "a/b", "prj 1%2F..", "ü", "~"])
async def test_no_project_id_leads_out_of_the_directory(
    store: BlobStore, tmp_path: Path, project: str
) -> None:
    key = f"{project.replace('/', '-')}/../../x"
    try:
        await put(store, key)
    except ValueError:
        assert files(tmp_path) == []
        return
    (path,) = files(tmp_path)
    assert path.resolve().is_relative_to((tmp_path / "blobs").resolve())


async def test_old_blobs_are_listed_by_key_and_old_halves_removed(
    store: BlobStore, tmp_path: Path
) -> None:
    key = new_key("prj_1")
    await put(store, key)
    half = tmp_path / "blobs" / "prj_1" / "blob_x.part"
    half.write_bytes(b"left by a crash")
    assert [k async for keys in store.older_than(3600) for k in keys] == []
    assert half.exists()
    assert [k async for keys in store.older_than(-1) for k in keys] == [key]
    assert not half.exists()
