"""Where source files are kept: one interface, a store per kind of URL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from meshkit.ids import new_id
from meshkit.settings import SettingsInvalid
from services.ingestion.blobs.directory import DirectoryStore


class BlobWriter(Protocol):
    """A blob that does not exist until it is committed."""

    async def write(self, data: bytes) -> None:
        """Appends bytes."""

    async def commit(self) -> None:
        """Makes the blob exist, durably and at once.

        Raises:
            FileNotFoundError: when its project was deleted since it was begun.
        """


class BlobStore(Protocol):
    """Blobs by key; a key is `<project id>/<blob id>`, made by `new_key`."""

    def create(self, key: str) -> AbstractAsyncContextManager[BlobWriter]:
        """A writer; leaving the block without `commit` leaves nothing behind."""

    def local(self, key: str) -> AbstractAsyncContextManager[Path]:
        """The blob as a file to read, for as long as the block lasts.

        Raises:
            FileNotFoundError: when there is no such blob.
        """

    async def delete(self, key: str) -> bool:
        """Removes a blob; False when it was not there."""

    async def delete_project(self, project_id: str) -> int:
        """Removes every blob of a project, unfinished ones too; returns how many there were."""

    def older_than(self, seconds: float) -> AsyncIterator[list[str]]:
        """Keys of blobs of at least this age, in batches, for sweeping orphans.

        Unfinished writes of that age are removed on the way.
        """


def new_key(project_id: str) -> str:
    """A key for a new blob of a project."""
    return f"{project_id}/{new_id('blob')}"


def open_store(url: str) -> BlobStore:
    """The store that CITEMESH_BLOB_URL names.

    Raises:
        SettingsInvalid: when the URL is none this version can open.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return DirectoryStore(Path(unquote(parts.path)))
    if parts.scheme == "s3":
        raise SettingsInvalid(
            "CITEMESH_BLOB_URL names an S3 bucket, which this version cannot use yet;"
            " use file:///path/of/a/directory."
        )
    raise SettingsInvalid("CITEMESH_BLOB_URL must look like file:///path/of/a/directory.")
