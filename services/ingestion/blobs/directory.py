"""Blobs as files of a directory: written beside, synced, then renamed."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

from meshkit import clock
from services.ingestion.blobs.failures import disk_errors
from services.ingestion.blobs.names import is_ours, key_of, name_of, path_of

_BATCH = 500
_UNFINISHED = ".part"

T = TypeVar("T")


class DirectoryStore:
    """Blobs under one directory, a sub-directory per project.

    Args:
        root: The directory; made when missing. One node only may use it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    @asynccontextmanager
    async def create(self, key: str) -> AsyncIterator[_Writer]:
        """See `BlobStore.create`."""
        path = self._root / path_of(key)
        writer = await _in_thread(lambda: _Writer.open(path))
        try:
            yield writer
        finally:
            # Shielded: a cancelled upload must not leave its file behind.
            await asyncio.shield(_in_thread(writer.close))

    @asynccontextmanager
    async def local(self, key: str) -> AsyncIterator[Path]:
        """See `BlobStore.local`."""
        path = self._root / path_of(key)
        if not await _in_thread(path.is_file):
            raise FileNotFoundError("the source file is not in the blob store")
        yield path

    async def delete(self, key: str) -> None:
        """See `BlobStore.delete`."""
        path = self._root / path_of(key)
        await _in_thread(lambda: path.unlink(missing_ok=True))

    async def delete_project(self, project_id: str) -> int:
        """See `BlobStore.delete_project`."""

        def remove() -> int:
            directory = self._root / name_of(project_id)
            if not directory.is_dir():
                return 0
            count = sum(not name.name.endswith(_UNFINISHED) for name in directory.iterdir())
            shutil.rmtree(directory)
            return count

        return await _in_thread(remove)

    async def older_than(self, seconds: float) -> AsyncIterator[list[str]]:
        """See `BlobStore.older_than`."""
        before = clock.now() - seconds
        found = self._keys(before)
        while batch := await _in_thread(lambda: list(islice(found, _BATCH))):
            yield batch

    def _keys(self, before: float) -> Iterator[str]:
        for directory in self._root.iterdir():
            if not directory.is_dir():
                continue
            for path in directory.iterdir():
                name = f"{directory.name}/{path.name.removesuffix(_UNFINISHED)}"
                if not is_ours(name):
                    continue
                try:
                    if path.stat().st_mtime >= before:
                        continue
                    if path.name.endswith(_UNFINISHED):
                        path.unlink()
                        continue
                except FileNotFoundError:
                    continue
                yield key_of(name)


class _Writer:
    """An unfinished file; methods but `close` and `open` run their I/O in a thread."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._committed = False

    @classmethod
    def open(cls, path: Path) -> _Writer:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cls(path, _unfinished(path).open("xb", buffering=0))

    async def write(self, data: bytes) -> None:
        """Appends bytes."""
        await _in_thread(lambda: self._write_all(data))

    async def commit(self) -> None:
        """Makes the blob exist."""
        await _in_thread(self._commit)

    def close(self) -> None:
        """Removes the file unless it was committed."""
        self._file.close()
        if not self._committed:
            _unfinished(self._path).unlink(missing_ok=True)

    def _write_all(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def _commit(self) -> None:
        os.fsync(self._file.fileno())
        _unfinished(self._path).replace(self._path)
        self._committed = True
        # The name itself must survive a power cut too.
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


async def _in_thread(work: Callable[[], T]) -> T:
    with disk_errors():
        return await asyncio.to_thread(work)


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + _UNFINISHED)
