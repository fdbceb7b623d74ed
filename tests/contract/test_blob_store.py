"""The blob store, one suite over each kind: whole blobs or none, and nothing outside of it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import create_loader

from meshkit.errors import Unavailable
from meshkit.settings import SettingsInvalid
from services.ingestion.blobs import BlobStore, S3Access, new_key, open_store
from services.ingestion.blobs.s3 import PART_BYTES, S3Store
from services.ingestion.blobs.spool import Spool
from tests.contract.s3_server import ACCESS, S3Server
from tests.contract.wire import Wire, wire_to

_LOADER = lru_cache(create_loader)
LARGE = os.urandom(1 << 20) * (PART_BYTES // (1 << 20)) + b"tail"
"""A part and a bit."""


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ACCESS.items():
        monkeypatch.setenv(name, value)
    # Nothing of the machine's own configuration.
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # Its description of S3, 17 MB of JSON in all, is read once for all tests.
    monkeypatch.setattr("botocore.session.create_loader", _LOADER)


@dataclass(frozen=True, slots=True)
class Opened:
    """A store, and what lies in it as somebody else sees it."""

    store: BlobStore
    names: Callable[[], list[str]]
    """Everything that takes room, unfinished writes too."""
    leave_half: Callable[[str], None]
    """Leaves an unfinished write behind, as a crash does."""


def files_in(directory: Path) -> list[str]:
    return [str(path) for path in directory.rglob("*") if path.is_file()]


async def s3_store(
    stack: AsyncExitStack, s3: S3Server, bucket: str, spool: Path, *, endpoint: str = ""
) -> BlobStore:
    access = S3Access(endpoint or s3.url, "us-east-1", spool)
    return await stack.enter_async_context(open_store(f"s3://{bucket}/some/prefix", access))


KINDS = ["directory", "s3"]
with_versions = pytest.mark.parametrize("opened", [*KINDS, "s3 with versions"], indirect=True)
"""Where deleting is tested: such a bucket keeps what is deleted, unless it is told not to."""


@pytest.fixture(params=KINDS)
async def opened(
    request: pytest.FixtureRequest, s3: S3Server, credentials: None, tmp_path: Path
) -> AsyncIterator[Opened]:
    async with AsyncExitStack() as stack:
        if request.param == "directory":
            root = tmp_path / "blobs"

            def half(key: str) -> None:
                (root / key).with_name(key.partition("/")[2] + ".part").write_bytes(b"half")

            store = await stack.enter_async_context(open_store(root.as_uri(), S3Access()))
            yield Opened(store, lambda: files_in(tmp_path), half)
            return
        bucket = s3.bucket(versions=request.param == "s3 with versions")

        def begin(key: str) -> None:
            s3.client.create_multipart_upload(Bucket=bucket, Key=f"some/prefix/{key}")

        store = await s3_store(stack, s3, bucket, tmp_path)
        left = s3.holds(bucket)
        yield Opened(store, lambda: [n for n in s3.holds(bucket) if n not in left], begin)


async def put(store: BlobStore, key: str, data: bytes = b"data") -> None:
    async with store.create(key) as writer:
        for at in range(0, len(data), 1 << 20):
            await writer.write(data[at : at + (1 << 20)])
        await writer.commit()


async def old(store: BlobStore, seconds: float = -1) -> list[str]:
    return [key async for keys in store.older_than(seconds) for key in keys]


@pytest.mark.parametrize("data", [b"b", b"a" * PART_BYTES, LARGE], ids=["small", "part", "large"])
async def test_a_committed_blob_is_read_back_whole(opened: Opened, data: bytes) -> None:
    key = new_key("prj_1")
    await put(opened.store, key, data)
    async with opened.store.local(key) as path:
        assert path.read_bytes() == data
    assert len(opened.names()) == 1


@pytest.mark.parametrize("data", [b"half", LARGE], ids=["small", "large"])
async def test_a_blob_that_was_not_committed_leaves_nothing(opened: Opened, data: bytes) -> None:
    async def breaking_off() -> None:
        async with opened.store.create(new_key("prj_1")) as writer:
            await writer.write(data)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await breaking_off()
    assert opened.names() == []


async def test_a_cancelled_write_leaves_nothing(opened: Opened) -> None:
    begun = asyncio.Event()

    async def writing() -> None:
        async with opened.store.create(new_key("prj_1")) as writer:
            await writer.write(LARGE)
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(writing())
    await begun.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert opened.names() == []


async def test_a_blob_is_not_there_before_it_is_committed(opened: Opened) -> None:
    key = new_key("prj_1")
    async with opened.store.create(key) as writer:
        await writer.write(LARGE)
        with pytest.raises(FileNotFoundError):
            async with opened.store.local(key):
                pass
        await writer.commit()
    async with opened.store.local(key) as path:
        assert path.stat().st_size == len(LARGE)


async def test_a_blob_that_is_not_there_is_said_to_be_missing(opened: Opened) -> None:
    with pytest.raises(FileNotFoundError):
        async with opened.store.local(new_key("prj_1")):
            pass
    await opened.store.delete(new_key("prj_1"))


@with_versions
async def test_a_deleted_blob_is_gone(opened: Opened) -> None:
    key, other = new_key("prj_1"), new_key("prj_1")
    await put(opened.store, key)
    await put(opened.store, other)
    await opened.store.delete(key)
    assert len(opened.names()) == 1
    async with opened.store.local(other) as path:
        assert path.read_bytes() == b"data"


@with_versions
async def test_deleting_a_project_takes_its_blobs_and_no_others(opened: Opened) -> None:
    for project in ("prj_1", "prj_1", "prj_2", "prj_12"):
        await put(opened.store, new_key(project))
    opened.leave_half(new_key("prj_1"))
    assert await opened.store.delete_project("prj_1") == 2
    assert await opened.store.delete_project("prj_1") == 0
    assert len(opened.names()) == 2
    assert not any("prj_1/" in name for name in opened.names())


@with_versions
async def test_a_write_whose_project_was_deleted_meanwhile_leaves_nothing(opened: Opened) -> None:
    key = new_key("prj_1")
    async with opened.store.create(key) as writer:
        await writer.write(LARGE)
        await opened.store.delete_project("prj_1")
        with pytest.raises(FileNotFoundError):
            await writer.commit()
    assert opened.names() == []


@pytest.mark.parametrize("project", ["../escape", "a/b", "prj 1%2F..", "ü", "~"])
async def test_no_project_id_leads_out_of_its_place(opened: Opened, project: str) -> None:
    key = f"{project.replace('/', '-')}/../../blob_x"
    try:
        await put(opened.store, key)
    except ValueError:
        assert opened.names() == []
        return
    (name,) = opened.names()
    assert "blobs/" in name or name.startswith("some/prefix/")
    assert "/../" not in name


async def test_old_blobs_are_listed_by_key_and_old_halves_removed(opened: Opened) -> None:
    key = new_key("prj_1")
    await put(opened.store, key)
    opened.leave_half(new_key("prj_1"))
    # A century: moto dates every unfinished upload to 2010.
    assert await old(opened.store, 3600 * 24 * 36500) == []
    assert len(opened.names()) == 2
    assert await old(opened.store) == [key]
    assert len(opened.names()) == 1


async def test_what_others_keep_in_the_same_place_is_not_swept(
    s3: S3Server, credentials: None, tmp_path: Path
) -> None:
    (tmp_path / "mine" / "photos").mkdir(parents=True)
    (tmp_path / "mine" / "photos" / "cat.png").write_bytes(b"x")
    bucket = s3.bucket()
    for name in ("cat.png", "photos/cat.png", "a/blob_1/c"):
        s3.client.put_object(Bucket=bucket, Key=name, Body=b"x")
    s3.client.create_multipart_upload(Bucket=bucket, Key="photos/dog.png")
    async with (
        open_store((tmp_path / "mine").as_uri(), S3Access()) as directory,
        open_store(f"s3://{bucket}", S3Access(s3.url, "us-east-1", tmp_path)) as shared,
    ):
        assert await old(directory) == []
        assert await old(shared) == []
    assert len(s3.client.list_multipart_uploads(Bucket=bucket)["Uploads"]) == 1


async def test_a_full_disk_is_a_reason_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async with open_store(tmp_path.as_uri(), S3Access()) as store:
        monkeypatch.setattr("services.ingestion.blobs.directory._Writer._write_all", full)
        with pytest.raises(Unavailable, match="no room") as caught:
            await put(store, new_key("prj_1"))
    assert caught.value.reason == "BLOB_STORE_FULL"
    assert files_in(tmp_path) == []


# What only S3 can do wrong.


@pytest.fixture
async def wired(
    s3: S3Server, credentials: None, tmp_path: Path
) -> AsyncIterator[tuple[BlobStore, Wire, Callable[[], list[str]]]]:
    bucket = s3.bucket()
    async with AsyncExitStack() as stack:
        wire = await stack.enter_async_context(wire_to(s3.connect))
        store = await s3_store(
            stack, s3, bucket, tmp_path, endpoint=f"http://127.0.0.1:{wire.port}"
        )
        yield store, wire, lambda: s3.holds(bucket)


Wired = tuple[BlobStore, Wire, Callable[[], list[str]]]


async def test_an_s3_that_is_away_refuses_a_write_and_takes_it_later(wired: Wired) -> None:
    store, wire, names = wired
    key = new_key("prj_1")
    wire.cut()
    with pytest.raises(Unavailable) as caught:
        await put(store, key)
    assert caught.value.reason == "BLOB_STORE_UNAVAILABLE"
    wire.mend()
    await put(store, key)
    assert names() == [f"some/prefix/{key}"]


async def test_a_write_that_breaks_between_parts_is_swept(wired: Wired) -> None:
    store, wire, names = wired
    with pytest.raises(Unavailable):
        async with store.create(new_key("prj_1")) as writer:
            await writer.write(LARGE)
            wire.cut()
            await writer.commit()
    wire.mend()
    assert len(names()) == 1
    assert await old(store) == []
    assert names() == []


async def test_a_read_that_breaks_off_begins_again_or_says_so(wired: Wired) -> None:
    store, wire, _ = wired
    key = new_key("prj_1")
    await put(store, key, LARGE)

    async def mending() -> None:
        while wire.whole:
            await asyncio.sleep(0.01)
        wire.mend()

    wire.after = PART_BYTES // 2
    mender = asyncio.create_task(mending())
    async with store.local(key) as path:
        assert path.read_bytes() == LARGE
    await mender


async def test_a_completed_upload_whose_answer_was_lost_is_committed(
    s3: S3Server, wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _, names = wired
    assert isinstance(store, S3Store)
    complete = store._client.complete_multipart_upload

    async def twice(**asked: Any) -> Any:
        await complete(**asked)
        return await complete(**asked)

    monkeypatch.setattr(store._client, "complete_multipart_upload", twice)
    key = new_key("prj_1")
    await put(store, key, LARGE)
    async with store.local(key) as path:
        assert path.read_bytes() == LARGE
    assert names() == [f"some/prefix/{key}"]


async def test_a_bucket_that_vanishes_is_an_operators_business(
    s3: S3Server, credentials: None, tmp_path: Path
) -> None:
    bucket = s3.bucket()
    async with AsyncExitStack() as stack:
        store = await s3_store(stack, s3, bucket, tmp_path)
        s3.client.delete_bucket(Bucket=bucket)
        with pytest.raises(Unavailable) as caught:
            await put(store, new_key("prj_1"))
    assert caught.value.reason == "BLOB_STORE_REFUSED"


@pytest.mark.parametrize(
    ("url", "access", "sentence"),
    [
        ("s3://no-such-bucket/x", {}, "the bucket 'no-such-bucket' of .* does not exist"),
        ("s3:///x", {}, "no bucket"),
        ("s3://A_b/x", {}, "no bucket"),
        ("s3://ok-bucket", {"endpoint_url": "127.0.0.1:9"}, "cannot be used"),
        ("ftp://host/x", {}, "must look like file:///path/of/a/directory or s3://bucket"),
        ("file://host/x", {}, "must look like"),
    ],
)
async def test_a_wrong_blob_url_is_refused_with_one_sentence(
    s3: S3Server, credentials: None, tmp_path: Path, url: str, access: Any, sentence: str
) -> None:
    given = S3Access(**{"endpoint_url": s3.url, "region": "us-east-1", "spool": tmp_path, **access})
    with pytest.raises(SettingsInvalid, match=sentence) as caught:
        async with open_store(url, given):
            pass
    assert "\n" not in str(caught.value)
    assert files_in(tmp_path) == []


async def test_missing_credentials_are_named_at_start(
    s3: S3Server, credentials: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3.bucket()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(SettingsInvalid, match="no credentials"):
        async with open_store(f"s3://{bucket}", S3Access(s3.url, "us-east-1", tmp_path)):
            pass


async def test_an_s3_that_is_away_at_start_is_waited_for(
    s3: S3Server, credentials: None, tmp_path: Path
) -> None:
    bucket = s3.bucket()
    async with wire_to(s3.connect) as wire:
        wire.cut()
        access = S3Access(f"http://127.0.0.1:{wire.port}", "us-east-1", tmp_path)
        async with open_store(f"s3://{bucket}", access) as store:
            with pytest.raises(Unavailable):
                await put(store, new_key("prj_1"))
            wire.mend()
            await put(store, new_key("prj_1"))
    assert len(s3.holds(bucket)) == 1


def test_memory_stays_within_a_few_parts(s3: S3Server, credentials: None, tmp_path: Path) -> None:
    """In a process of its own, as the server of the tests keeps what it is sent."""
    bucket = s3.bucket()
    program = """
import asyncio, resource, sys
from pathlib import Path
from services.ingestion.blobs import S3Access, new_key, open_store
url, endpoint, spool = sys.argv[1:]
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
async def main():
    async with open_store(url, S3Access(endpoint, "us-east-1", Path(spool))) as store:
        async def round(pieces):
            key = new_key("prj_1")
            async with store.create(key) as writer:
                for _ in range(pieces):
                    await writer.write(bytes(1 << 20))
                await writer.commit()
            async with store.local(key) as path:
                assert path.stat().st_size == pieces << 20
        await round(9)
        before = peak()
        await round(56)
        print((peak() - before) // 1024)
asyncio.run(main())
"""
    grown = subprocess.run(
        [sys.executable, "-c", program, f"s3://{bucket}", s3.url, str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(grown.stdout) < 28


async def test_temporary_copies_of_a_killed_process_go_with_the_next_start(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from services.ingestion.blobs.spool import Spool
spool = Spool(Path(sys.argv[1]))
with spool.file() as path:
    path.write_bytes(b"text of somebody's document")
    print("written", flush=True)
    time.sleep(60)
"""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(tmp_path)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    living = Spool(tmp_path)
    assert len(files_in(tmp_path)) == 1, "a living process keeps its copies"
    process.kill()
    await process.wait()
    Spool(tmp_path).close()
    assert files_in(tmp_path) == []
    assert living.path.exists()
    living.close()
