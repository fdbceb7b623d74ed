"""Blobs as objects of a bucket of S3, or of anything that speaks its protocol.

An object appears whole or not at all: small files are one PutObject, larger ones a
multipart upload of which one part is in memory at a time. Every request carries the
body's MD5, which all such stores check; newer checksums many of them do not know.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError

from meshkit.errors import Unavailable
from meshkit.logging import logger
from services.ingestion.blobs.failures import disk_errors
from services.ingestion.blobs.names import is_ours, key_of, name_of, path_of
from services.ingestion.blobs.s3_errors import code_of, is_refusal, refusal_at_start, s3_errors
from services.ingestion.blobs.spool import Spool
from services.ingestion.retry import patiently

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef

log = logger(__name__)

PART_BYTES = 8 << 20
"""Size of a part, and the memory an upload takes. S3 wants 5 MiB at least and 10,000
parts at most: files up to 80 GB."""
_READ_BYTES = 1 << 20
_READ_PATIENCE_SECONDS = 5.0
_ABORT_SECONDS = 10.0
_AT_ONCE = 16
_CONFIG: dict[str, Any] = {
    "connect_timeout": 5,
    "read_timeout": 30,
    "retries": {"mode": "standard", "total_max_attempts": 3},
    "max_pool_connections": 32,
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
    "signature_version": "s3v4",
}


class S3Store:
    """Blobs in one bucket, under a prefix; any number of nodes may use it.

    Credentials are found as AWS's own tools find them: AWS_ACCESS_KEY_ID and
    AWS_SECRET_ACCESS_KEY, a profile, or the role of the pod or machine.

    Args:
        bucket: The bucket; it must exist.
        prefix: What the names of its objects begin with; slashes around it do not matter.
        endpoint_url: Of a store other than AWS's; buckets are then part of the path.
        region: Of the bucket; empty for what AWS's configuration says.
        spool: Directory for temporary copies; None for the system's own.
    """

    def __init__(
        self, *, bucket: str, prefix: str, endpoint_url: str, region: str, spool: Path | None
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/".lstrip("/")
        self._endpoint_url = endpoint_url
        self._region = region
        self._spool_parent = spool
        self._stack = AsyncExitStack()
        self._versioned: bool | None = None

    async def __aenter__(self) -> Self:
        """Opens the client and refuses a bucket that cannot be used.

        A store that does not answer yet is no reason not to start: uploads are refused
        and documents wait until it does.

        Raises:
            SettingsInvalid: with the sentence that says what is wrong.
        """
        async with AsyncExitStack() as opening:
            self._spool = Spool(self._spool_parent)
            opening.callback(self._spool.close)
            style = {"addressing_style": "path"} if self._endpoint_url else {}
            try:
                client = AioSession().create_client(
                    "s3",
                    endpoint_url=self._endpoint_url or None,
                    region_name=self._region or None,
                    config=AioConfig(**_CONFIG, s3=style),
                )
                self._client: S3Client = await opening.enter_async_context(client)
                await self._check()
            except (BotoCoreError, ClientError, ValueError) as error:
                raise refusal_at_start(error, self._bucket, self._endpoint_url) from None
            self._stack = opening.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _check(self) -> None:
        """Lists, writes and deletes once."""
        probe = f"{self._prefix}.probe"
        try:
            with s3_errors(at_start=True):
                await self._client.list_objects_v2(
                    Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1
                )
                await self._client.put_object(Bucket=self._bucket, Key=probe, Body=b"")
                await self._client.delete_object(Bucket=self._bucket, Key=probe)
        except Unavailable:
            log.warning("the blob store does not answer; it is asked again with every file")

    async def _keeps_versions(self) -> bool:
        """Whether a deleted object is kept as an older version."""
        if self._versioned is None:
            try:
                status = await self._client.get_bucket_versioning(Bucket=self._bucket)
            except ClientError as error:
                if not is_refusal(error):
                    raise
                log.warning("the blob store does not say whether it keeps what is deleted")
                self._versioned = False
            else:
                self._versioned = "Status" in status
        return self._versioned

    @asynccontextmanager
    async def create(self, key: str) -> AsyncIterator[_Writer]:
        """See `BlobStore.create`."""
        writer = _Writer(self._client, self._bucket, self._prefix + path_of(key))
        try:
            yield writer
        finally:
            # Shielded: a cancelled upload must not leave its parts behind.
            await asyncio.shield(writer.close())

    @asynccontextmanager
    async def local(self, key: str) -> AsyncIterator[Path]:
        """See `BlobStore.local`."""
        with self._spool.file() as path:
            await patiently(lambda: self._fetch(key, path), _READ_PATIENCE_SECONDS)
            yield path

    async def _fetch(self, key: str, path: Path) -> None:
        with s3_errors():
            response = await self._client.get_object(
                Bucket=self._bucket, Key=self._prefix + path_of(key)
            )
            async with response["Body"] as body:
                with disk_errors():
                    await _copy(body, path)

    async def delete(self, key: str) -> None:
        """See `BlobStore.delete`."""
        with s3_errors():
            await self._erase(self._prefix + path_of(key))

    async def delete_project(self, project_id: str) -> int:
        """See `BlobStore.delete_project`.

        Uploads go first: one of them that is completed meanwhile is then listed.
        """
        prefix = f"{self._prefix}{name_of(project_id)}/"
        count = 0
        with s3_errors():
            await self._abort_uploads(prefix)
            async for names in self._names(prefix):
                count += len(names)
                await self._erase_all(names)
            if await self._keeps_versions():
                # What was deleted before and is kept as an older version.
                async for names in self._old_names(prefix):
                    await self._erase_all(names)
        return count

    async def older_than(self, seconds: float) -> AsyncIterator[list[str]]:
        """See `BlobStore.older_than`."""
        before = datetime.now(UTC) - timedelta(seconds=seconds)
        with s3_errors():
            await self._abort_uploads(self._prefix, before)
            async for names in self._names(self._prefix, before):
                paths = (name.removeprefix(self._prefix) for name in names)
                yield [key_of(path) for path in paths if is_ours(path)]

    async def _names(self, prefix: str, before: datetime | None = None) -> AsyncIterator[list[str]]:
        """Names of objects, a page at a time; only those last written before a moment."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix
        )
        async for page in pages:
            found = [
                entry["Key"]
                for entry in page.get("Contents", ())
                if before is None or entry["LastModified"] < before
            ]
            if found:
                yield found

    async def _old_names(self, prefix: str) -> AsyncIterator[list[str]]:
        pages = self._client.get_paginator("list_object_versions").paginate(
            Bucket=self._bucket, Prefix=prefix
        )
        async for page in pages:
            entries = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
            yield sorted({entry["Key"] for entry in entries})

    async def _abort_uploads(self, prefix: str, before: datetime | None = None) -> None:
        """Ends multipart uploads that nobody finished.

        MinIO lists them by whole names only, and ends old ones by itself.
        """
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._bucket, Prefix=prefix
        )
        async for page in pages:
            for entry in page.get("Uploads", ()):
                ours = is_ours(entry["Key"].removeprefix(self._prefix))
                if ours and (before is None or entry["Initiated"] < before):
                    with suppress(FileNotFoundError), s3_errors():
                        await self._client.abort_multipart_upload(
                            Bucket=self._bucket, Key=entry["Key"], UploadId=entry["UploadId"]
                        )

    async def _erase_all(self, names: Iterable[str]) -> None:
        slots = asyncio.Semaphore(_AT_ONCE)

        async def erase(name: str) -> None:
            async with slots:
                await self._erase(name)

        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(erase(name))

    async def _erase(self, name: str) -> None:
        """Deletes an object, in a bucket with versions every one of them."""
        if not await self._keeps_versions():
            # One by one: DeleteObjects wants checksums that not every store knows.
            await self._client.delete_object(Bucket=self._bucket, Key=name)
            return
        pages = self._client.get_paginator("list_object_versions").paginate(
            Bucket=self._bucket, Prefix=name
        )
        async for page in pages:
            for entry in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                if entry["Key"] == name:
                    await self._client.delete_object(
                        Bucket=self._bucket, Key=name, VersionId=entry["VersionId"]
                    )


class _Writer:
    """An object that is being written."""

    def __init__(self, client: S3Client, bucket: str, name: str) -> None:
        self._client = client
        self._bucket = bucket
        self._name = name
        self._buffer = bytearray()
        self._size = 0
        self._upload = ""
        self._parts: list[CompletedPartTypeDef] = []
        self._committed = False

    async def write(self, data: bytes) -> None:
        """See `BlobWriter.write`."""
        self._buffer += data
        self._size += len(data)
        while len(self._buffer) > PART_BYTES:
            piece = bytes(self._buffer[:PART_BYTES])
            del self._buffer[:PART_BYTES]
            with s3_errors():
                await self._send_part(piece)

    async def commit(self) -> None:
        """See `BlobWriter.commit`."""
        last = bytes(self._buffer)
        with s3_errors():
            if self._upload:
                await self._send_part(last)
                await self._complete()
            else:
                await self._client.put_object(
                    Bucket=self._bucket, Key=self._name, Body=last, ContentMD5=await _md5(last)
                )
        self._committed = True

    async def close(self) -> None:
        """Ends the upload unless it was committed; what that misses is swept later."""
        if self._committed or not self._upload:
            return
        try:
            with s3_errors():
                async with asyncio.timeout(_ABORT_SECONDS):
                    await self._client.abort_multipart_upload(
                        Bucket=self._bucket, Key=self._name, UploadId=self._upload
                    )
        except (FileNotFoundError, Unavailable):
            log.warning("an unfinished upload is left to housekeeping")

    async def _send_part(self, piece: bytes) -> None:
        if not self._upload:
            begun = await self._client.create_multipart_upload(Bucket=self._bucket, Key=self._name)
            self._upload = begun["UploadId"]
        number = len(self._parts) + 1
        sent = await self._client.upload_part(
            Bucket=self._bucket,
            Key=self._name,
            UploadId=self._upload,
            PartNumber=number,
            Body=piece,
            ContentMD5=await _md5(piece),
        )
        self._parts.append({"PartNumber": number, "ETag": sent["ETag"]})

    async def _complete(self) -> None:
        try:
            await self._client.complete_multipart_upload(
                Bucket=self._bucket,
                Key=self._name,
                UploadId=self._upload,
                MultipartUpload={"Parts": self._parts},
            )
        except ClientError as error:
            # A repeated request after a lost answer finds the upload completed.
            if code_of(error) != "NoSuchUpload":
                raise
            found = await self._client.head_object(Bucket=self._bucket, Key=self._name)
            if found["ContentLength"] != self._size:
                raise


async def _copy(body: Any, path: Path) -> None:
    """Writes a response's body to a file; one that ends before its announced length raises."""
    file = await asyncio.to_thread(path.open, "wb")
    try:
        while piece := await body.read(_READ_BYTES):
            await asyncio.to_thread(file.write, piece)
    finally:
        await asyncio.to_thread(file.close)


async def _md5(piece: bytes) -> str:
    def compute() -> str:
        return base64.b64encode(hashlib.md5(piece, usedforsecurity=False).digest()).decode()

    return await asyncio.to_thread(compute)
