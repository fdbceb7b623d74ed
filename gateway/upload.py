"""A file on its way from a form to ingestion, without ever being whole in memory.

The contract wants title, labels and access list first. A form that names all
three before its file is passed straight through, piece by piece. In any other
form fields may still follow the file, so the file waits in a spool: in memory
while it is small, else in a temporary file.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from citemesh.ingestion import v1 as ingestion_v1
from gateway import problem
from gateway.form import FormEvent, PartBegun, PartData, PartEnded, boundary_of, read_form
from gateway.mesh import Mesh
from gateway.problem import request_id_of
from gateway.settings import GatewaySettings
from gateway.spool import Spool
from meshkit.errors import Cancelled, InvalidInput, MeshError, TooLarge, Unavailable
from meshkit.logging import logger

log = logger(__name__)

T = TypeVar("T")

FIELDS = ("title", "labels", "allow")
_FIELD_BYTES = 64 * 1024
_FORM_BYTES = 1024 * 1024
"""What a form may have beside its file: boundaries, headers and fields."""
_MESSAGE_BYTES = 256 * 1024
LINGER_SECONDS = 30.0
"""How long the rest of a refused upload is read and thrown away, after the answer was
sent. A client that is still sending when the connection closes may never read why."""


@dataclass(slots=True)
class Metadata:
    """The fields of the form."""

    title: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    allow: list[str] = field(default_factory=list)
    given: set[str] = field(default_factory=set)

    def take(self, name: str, raw: bytes) -> None:
        """Takes a field.

        Raises:
            InvalidInput: FIELD_INVALID.
        """
        self.given.add(name)
        try:
            text = raw.decode()
            if name == "title":
                self.title = text
            elif name == "labels":
                self.labels = _labels(text)
            else:
                self.allow = _principals(text)
        # RecursionError: brackets in brackets, thousands deep.
        except (ValueError, RecursionError):
            shapes = {
                "title": "text in UTF-8",
                "labels": 'a JSON object of strings such as {"year": "2024"}',
                "allow": 'a JSON list of principals such as ["group:hr"]',
            }
            detail = f"must be {shapes[name]}"
            raise InvalidInput(
                "FIELD_INVALID", f"The field '{name}' {detail}.", fields={name: detail}
            ) from None


def _labels(text: str) -> dict[str, str]:
    found = json.loads(text) if text.strip() else {}
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise ValueError("no object of strings")
    return _encodable(found)


def _principals(text: str) -> list[str]:
    found = json.loads(text) if text.strip() else []
    if not isinstance(found, list) or not all(isinstance(v, str) for v in found):
        raise ValueError("no list of strings")
    return _encodable(found)


def _encodable(found: T) -> T:
    """What was read, unless it holds half a character, which JSON can spell and UTF-8 cannot."""
    json.dumps(found, ensure_ascii=False).encode()
    return found


class Upload:
    """One form as the messages of an upload stream."""

    def __init__(
        self,
        body: AsyncIterator[bytes],
        content_type: str,
        settings: GatewaySettings,
        *,
        document_id: str,
        request_id: str,
    ) -> None:
        self._events = read_form(body, boundary_of(content_type))
        self._settings = settings
        self._document_id = document_id
        self._request_id = request_id
        self._metadata = Metadata()
        self._file_name: str | None = None
        self._size = 0
        self.error: MeshError | None = None
        """Why the form could not be read; gRPC would only say that the call was cancelled."""

    async def messages(self) -> AsyncIterator[ingestion_v1.UploadDocumentRequest]:
        """The messages for ingestion, as fast as it takes them."""
        try:
            async for data in self._pieces():
                yield data
        except ClientDisconnect:
            self.error = Cancelled("CLIENT_GONE", "The client went away during the upload.")
            raise self.error from None
        except MeshError as error:
            self.error = error
            raise
        except OSError as error:
            log.warning("upload could not be spooled", error=type(error).__name__)
            self.error = Unavailable(
                "SPOOL_FAILED", "The gateway has no room to hold the file now; try again."
            )
            raise self.error from None

    async def _pieces(self) -> AsyncIterator[ingestion_v1.UploadDocumentRequest]:
        """Start, data and, only when the whole form was read, the end."""
        settings = self._settings
        with Spool(settings.spool_memory_bytes, settings.spool_directory) as spool:
            streaming = False
            async for found in self._events:
                if not isinstance(found, PartBegun):
                    continue
                if found.name != "file":
                    self._metadata.take(self._known(found), await self._field(found.name))
                    continue
                if self._file_name is not None:
                    raise InvalidInput("FIELD_INVALID", "The form has more than one file.")
                self._file_name = found.file_name or ""
                streaming = self._metadata.given.issuperset(FIELDS)
                if streaming:
                    yield self._start()
                    async for data in _in_messages(self._file()):
                        yield ingestion_v1.UploadDocumentRequest(data=data)
                else:
                    async for data in self._file():
                        await spool.write(data)
            if self._file_name is None:
                raise InvalidInput("FILE_MISSING", "The form has no part named 'file'.")
            if not streaming:
                yield self._start(size_bytes=self._size)
                async for data in _in_messages(spool.read()):
                    yield ingestion_v1.UploadDocumentRequest(data=data)
            yield ingestion_v1.UploadDocumentRequest(end=ingestion_v1.UploadEnd())

    def _known(self, part: PartBegun) -> str:
        if part.name not in FIELDS:
            raise InvalidInput(
                "FIELD_UNKNOWN",
                f"The form has no field '{part.name[:100]}'; it knows file, {', '.join(FIELDS)}.",
            )
        if part.name in self._metadata.given:
            raise InvalidInput("FIELD_INVALID", f"The field '{part.name}' is given twice.")
        return part.name

    def _start(self, size_bytes: int = 0) -> ingestion_v1.UploadDocumentRequest:
        metadata = ingestion_v1.DocumentMetadata(
            file_name=self._file_name or "",
            title=self._metadata.title,
            labels=self._metadata.labels,
            allow=self._metadata.allow,
        )
        return ingestion_v1.UploadDocumentRequest(
            start=ingestion_v1.UploadStart(
                metadata=metadata,
                document_id=self._document_id,
                request_id=self._request_id,
                size_bytes=size_bytes,
            )
        )

    async def _field(self, name: str) -> bytes:
        value = bytearray()
        async for data in _rest_of_part(self._events):
            value += data
            if len(value) > _FIELD_BYTES:
                raise InvalidInput(
                    "FIELD_TOO_LONG", f"The field '{name}' may have at most {_FIELD_BYTES} bytes."
                )
        return bytes(value)

    async def _file(self) -> AsyncIterator[bytes]:
        async for data in _rest_of_part(self._events):
            self._size += len(data)
            if self._size > self._settings.max_upload_bytes:
                raise too_large(self._settings.max_upload_bytes)
            yield data


async def _rest_of_part(events: AsyncIterator[FormEvent]) -> AsyncIterator[bytes]:
    async for found in events:
        if isinstance(found, PartEnded):
            return
        if isinstance(found, PartData):
            yield found.data


async def _in_messages(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces that are worth a message each."""
    waiting = bytearray()
    async for data in pieces:
        waiting += data
        while len(waiting) >= _MESSAGE_BYTES:
            yield bytes(waiting[:_MESSAGE_BYTES])
            del waiting[:_MESSAGE_BYTES]
    if waiting:
        yield bytes(waiting)


def too_large(most: int) -> TooLarge:
    """The error for a file beyond the limit."""
    return TooLarge(
        "FILE_TOO_LARGE",
        f"The file is larger than {most / 1_000_000:,.1f} MB, the largest that is taken here.",
        metadata={"max_bytes": str(most)},
    )


async def upload(
    request: Request, mesh: Mesh, *, document_id: str, request_id: str
) -> ingestion_v1.UploadDocumentResponse:
    """Streams the request's form to ingestion and returns what it committed.

    Raises:
        MeshError: what is wrong with the form, or what ingestion answered.
    """
    settings = mesh.settings
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > settings.max_upload_bytes + _FORM_BYTES:
        raise too_large(settings.max_upload_bytes)
    form = Upload(
        request.stream(),
        request.headers.get("content-type", ""),
        settings,
        document_id=document_id,
        request_id=request_id,
    )
    try:
        return await mesh.ingestion.UploadDocument(form.messages(), timeout=settings.upload_seconds)
    except (MeshError, asyncio.CancelledError):
        if form.error is not None:
            raise form.error from None
        raise


class RefusedUpload(Response):
    """A problem that is sent while the client may still be sending its file."""

    def __init__(self, error: MeshError, request: Request) -> None:
        answer = problem.response(error, request_id_of(request), {"Connection": "close"})
        super().__init__(status_code=answer.status_code)
        self.body = bytes(answer.body)
        self.raw_headers = answer.raw_headers
        # A client that waits for `100 Continue` has sent nothing and will not.
        self._waits = request.headers.get("expect", "").lower() == "100-continue"

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer, then reads on for a moment."""
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        if not self._waits:
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    while (await receive()).get("more_body", False):
                        pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})
