"""Uploading files and following them until they are ready, many at a time."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from meshkit.cli.client import Json, body, raise_for_problem, reaching
from meshkit.cli.failure import CommandFailed
from meshkit.cli.sse import async_events

FINAL = {"ready", "failed", "quarantined"}
UPLOADS_AT_ONCE = 4
FOLLOWED_AT_ONCE = 8
ATTEMPTS = 5
REFUSED_STATUS = {401, 403}
RETRIED_STATUS = {429, 502, 503, 504}


@dataclass(slots=True)
class Upload:
    """One file on its way."""

    name: str
    """What it is called in the mesh, usually the file's name."""
    path: Path | None = None
    content: bytes = b""
    """Used when there is no `path`."""
    title: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    document: Json = field(default_factory=dict)
    """As the mesh last described it; empty before the upload is acknowledged."""
    failure: CommandFailed | None = None

    @property
    def state(self) -> str:
        """`uploading`, `refused`, or the document's state."""
        if self.failure is not None:
            return "refused"
        return str(self.document.get("state", "uploading"))

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.failure is not None or self.state in FINAL

    def reason(self) -> tuple[str, str]:
        """Reason and detail of what went wrong; empty strings when nothing did."""
        if self.failure is not None:
            request = f" (request {self.failure.request_id})" if self.failure.request_id else ""
            return self.failure.reason, self.failure.detail + request
        error = self.document.get("error") or {}
        if self.state in ("failed", "quarantined"):
            fallback = self.state.upper()
            return str(error.get("reason") or fallback), str(error.get("detail") or "")
        return "", ""


Changed = Callable[[Upload], None]


async def upload_all(
    client: httpx.AsyncClient, uploads: list[Upload], changed: Changed, *, wait: bool
) -> None:
    """Sends every file and, with `wait`, follows each until it is ready or has failed.

    What goes wrong with one file is noted in its `failure` and does not stop the others.

    Raises:
        CommandFailed: the mesh is not there or refuses the key: no file would fare better.
    """
    uploading = asyncio.Semaphore(UPLOADS_AT_ONCE)
    following = asyncio.Semaphore(FOLLOWED_AT_ONCE)

    async def one(item: Upload) -> None:
        try:
            async with uploading:
                await _send(client, item)
            changed(item)
            if wait and not item.is_over:
                async with following:
                    await _follow(client, item, changed)
        except CommandFailed as failure:
            if failure.reason == "MESH_UNREACHABLE" or failure.status in REFUSED_STATUS:
                raise
            item.failure = failure
        except OSError as error:
            item.failure = CommandFailed(f"It cannot be read: {error.strerror}.", "FILE_UNREADABLE")
        changed(item)

    try:
        async with asyncio.TaskGroup() as group:
            for item in uploads:
                group.create_task(one(item))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _send(client: httpx.AsyncClient, item: Upload) -> None:
    """One upload; repeated with the same key when the mesh was busy or the connection broke."""
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    fields: dict[str, Any] = {}
    if item.labels:
        fields["labels"] = json.dumps(dict(item.labels))
    if item.title:
        fields["title"] = item.title
    for attempt in range(ATTEMPTS):
        last = attempt == ATTEMPTS - 1
        stream = item.path.open("rb") if item.path is not None else None
        try:
            file = (item.name, stream if stream is not None else item.content)
            with reaching(str(client.base_url)):
                response = await client.post(
                    "/v1/documents", data=fields, files={"file": file}, headers=headers
                )
        except CommandFailed as failure:
            if last or failure.reason != "MESH_DISCONNECTED":
                raise
            await asyncio.sleep(2**attempt / 2)
            continue
        finally:
            if stream is not None:
                stream.close()
        if response.status_code not in RETRIED_STATUS or last:
            break
        await asyncio.sleep(_retry_after(response, 2**attempt / 2))
    raise_for_problem(response)
    item.document = body(response)


async def _follow(client: httpx.AsyncClient, item: Upload, changed: Changed) -> None:
    """Listens to the document's events until the last one; reconnects when the stream ends."""
    path = f"/v1/documents/{item.document['id']}"
    failures = 0
    while not item.is_over:
        try:
            with reaching(str(client.base_url)):
                async with client.stream("GET", f"{path}/events") as response:
                    if response.is_error:
                        await response.aread()
                        raise_for_problem(response)
                    async for event in async_events(response.aiter_lines()):
                        if event.name == "state":
                            item.document = event.json()
                            failures = 0
                            changed(item)
        except CommandFailed as failure:
            failures += 1
            if failures >= ATTEMPTS or failure.reason == "DOCUMENT_NOT_FOUND":
                raise
            await asyncio.sleep(2**failures / 4)
            continue
        if not item.is_over:
            # The stream ended early (a gateway that stops): ask once before listening again.
            await asyncio.sleep(0.5)


def _retry_after(response: httpx.Response, otherwise: float) -> float:
    try:
        return min(float(response.headers.get("retry-after", otherwise)), 30.0)
    except ValueError:
        return otherwise
