"""Where source files are kept: one interface, a store per kind of URL."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from meshkit.ids import new_id
from meshkit.settings import SettingsInvalid
from services.ingestion.blobs.directory import DirectoryStore

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class BlobWriter(Protocol):
    """A blob that does not exist until it is committed."""

    async def write(self, data: bytes) -> None:
        """Appends bytes.

        Raises:
            Unavailable: BLOB_STORE_UNAVAILABLE, BLOB_STORE_REFUSED or BLOB_STORE_FULL.
        """

    async def commit(self) -> None:
        """Makes the blob exist, durably and at once.

        Raises:
            FileNotFoundError: when the store sees that its project was deleted since it was
                begun. Whether it was is for the database to say; this only comes sooner.
            Unavailable: as `write`; then the blob may exist all the same, and goes as an orphan.
        """


class BlobStore(Protocol):
    """Blobs by key; a key is `<project id>/<blob id>`, made by `new_key`.

    Every method raises `Unavailable` when what is behind it is away, full or refuses.
    """

    def create(self, key: str) -> AbstractAsyncContextManager[BlobWriter]:
        """A writer; leaving the block without `commit` leaves nothing behind."""

    def local(self, key: str) -> AbstractAsyncContextManager[Path]:
        """The blob as a file to read, for as long as the block lasts.

        Raises:
            FileNotFoundError: when there is no such blob.
        """

    async def delete(self, key: str) -> None:
        """Removes a blob, if it is there."""

    async def delete_project(self, project_id: str) -> int:
        """Removes every blob of a project, unfinished ones too; returns how many there were."""

    def older_than(self, seconds: float) -> AsyncIterator[list[str]]:
        """Keys of blobs of at least this age, in batches, for sweeping orphans.

        Unfinished writes of that age are removed on the way.
        """


@dataclass(frozen=True, slots=True)
class S3Access:
    """How to reach S3, beside the bucket; what is empty is found as AWS's own tools find it."""

    endpoint_url: str = ""
    region: str = ""
    spool: Path | None = None
    """Directory of the temporary copies that `local` gives; None for the system's own."""


def new_key(project_id: str) -> str:
    """A key for a new blob of a project."""
    return f"{project_id}/{new_id('blob')}"


def open_store(url: str, access: S3Access) -> AbstractAsyncContextManager[BlobStore]:
    """The store that CITEMESH_BLOB_URL names, open inside the block.

    Raises:
        SettingsInvalid: when the URL names none that can be used; entering the block raises it
            too, when the bucket is not there or refuses these credentials.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return DirectoryStore(Path(unquote(parts.path)))
    if parts.scheme == "s3":
        if not _BUCKET.fullmatch(parts.netloc):
            raise SettingsInvalid(
                f"CITEMESH_BLOB_URL names no bucket that S3 could have: '{parts.netloc}'."
            )
        # Imported where it is used: it costs a second and 50 MB.
        from services.ingestion.blobs.s3 import S3Store

        return S3Store(
            bucket=parts.netloc,
            prefix=unquote(parts.path),
            endpoint_url=access.endpoint_url,
            region=access.region,
            spool=access.spool,
        )
    raise SettingsInvalid(
        "CITEMESH_BLOB_URL must look like file:///path/of/a/directory or s3://bucket/prefix."
    )
