"""A real S3 over HTTP (moto's), and a wire to it that can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import boto3
from moto.s3.exceptions import NoSuchUpload
from moto.s3.models import S3Backend
from moto.server import ThreadedMotoServer

from meshkit.ids import new_id

ACCESS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
"""Environment of a process that uses it."""


@dataclass(frozen=True)
class S3Server:
    """Where it listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @cached_property
    def client(self) -> Any:
        """A client to look with, which knows nothing of ours."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def bucket(self, *, versions: bool = False) -> str:
        """A new bucket."""
        name = new_id("bucket").replace("_", "-")
        self.client.create_bucket(Bucket=name)
        if versions:
            self.client.put_bucket_versioning(
                Bucket=name, VersioningConfiguration={"Status": "Enabled"}
            )
        return name

    def holds(self, bucket: str) -> list[str]:
        """Names of every version of every object, and of every unfinished upload."""
        found = self.client.list_object_versions(Bucket=bucket)
        kept = [e["Key"] for e in (*found.get("Versions", ()), *found.get("DeleteMarkers", ()))]
        uploads = self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())
        return kept + [f"{upload['Key']} (unfinished)" for upload in uploads]


def _upload_part(backend: S3Backend, bucket: str, upload_id: str, *rest: object) -> object:
    """S3 says NoSuchUpload for a part of an upload that was ended; moto 5.2 fails."""
    if upload_id not in backend.get_bucket(bucket).multiparts:
        raise NoSuchUpload(upload_id)
    return _original(backend, bucket, upload_id, *rest)


_original = S3Backend.upload_part
S3Backend.upload_part = _upload_part


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server of its own on a free port."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield S3Server(*server.get_host_and_port())
    finally:
        server.stop()


@dataclass
class Wire:
    """A way to a server; `cut` ends what is under way and takes nothing new until `mend`."""

    port: int = 0
    after: int | None = None
    """Bytes of answers it lets through before it cuts itself; None for all."""
    whole: bool = True
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> None:
        self.whole = False
        for writer in self._open:
            writer.transport.abort()

    def mend(self) -> None:
        self.whole, self.after = True, None


@asynccontextmanager
async def wire_to(server: S3Server) -> AsyncIterator[Wire]:
    """A wire to the server."""
    wire = Wire()
    tasks: set[asyncio.Task[None]] = set()

    async def pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if answers and wire.after is not None:
                    wire.after -= len(data)
                    if wire.after < 0:
                        wire.cut()
                        return
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not wire.whole:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection(server.host, server.port)
        wire._open |= {writer, back}
        for task in (pump(reader, back, False), pump(there, writer, True)):
            running = asyncio.create_task(task)
            tasks.add(running)
            running.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    wire.port = listener.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        listener.close()
        wire.cut()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
