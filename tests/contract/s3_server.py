"""A real S3 over HTTP (moto's)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import boto3
from moto.s3.exceptions import NoSuchUpload
from moto.s3.models import S3Backend
from moto.server import ThreadedMotoServer

from meshkit.ids import new_id
from tests.contract.wire import Streams

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

    async def connect(self) -> Streams:
        """A connection of a `wire_to` it."""
        return await asyncio.open_connection(self.host, self.port)

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
