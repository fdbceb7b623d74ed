"""The RPCs of `IngestionService`: request to domain call to response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc

from citemesh.ingestion import v1
from meshkit import pagetoken
from meshkit.context import ADMIN, INTERNAL, READ, WRITE, RequestContext, require_scope
from meshkit.errors import (
    Conflict,
    InvalidInput,
    LimitExceeded,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from meshkit.logging import logger
from services.ingestion.blobs import BlobStore
from services.ingestion.catalogue import Added, Catalogue
from services.ingestion.changes import Changes
from services.ingestion.documents import SETTLED, StoredFile
from services.ingestion.messages import chunk_line, document_line, message, metadata, state
from services.ingestion.neighbours import Neighbours
from services.ingestion.removal import Removal
from services.ingestion.uploads import Expectation, receive

log = logger(__name__)

_DEFAULT_PAGE = 50
_EXPORT_PAGE = 200
_WATCH_SECONDS = 30.0
"""How often a watched row is looked at when nobody says that it changed."""

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Parts:
    """What the servicer translates for."""

    catalogue: Catalogue
    blobs: BlobStore
    removal: Removal
    neighbours: Neighbours
    changes: Changes
    max_file_bytes: int
    draining: asyncio.Event
    """Set when the process is about to stop."""


class IngestionServicer(v1.IngestionServiceServicer):
    """See `ingestion_service.proto`.

    Args:
        parts: What the servicer translates for.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def UploadDocument(
        self, request_iterator: AsyncIterator[v1.UploadDocumentRequest], _context: Context
    ) -> v1.UploadDocumentResponse:
        """Stores a file and queues it."""
        caller = require_scope(WRITE)
        start = await _start(request_iterator)
        meta = metadata(start.metadata)
        # Nobody uploads a gigabyte to a document that does not exist, or to a full queue.
        await self._parts.catalogue.admit(caller, start.document_id, start.request_id)
        file = await receive(
            self._parts.blobs,
            caller.project_id,
            _data(request_iterator),
            Expectation(meta.file_name, start.sha256, start.size_bytes),
            self._parts.max_file_bytes,
        )
        added = await self._add(caller, file, start)
        self._parts.changes.notify(added.document.document_id)
        return v1.UploadDocumentResponse(document=message(added.document), existing=added.existing)

    async def _add(self, caller: RequestContext, file: StoredFile, start: v1.UploadStart) -> Added:
        """Adds the file; when it is not needed it does not stay.

        After a lost connection or a cancellation the commit may have happened all
        the same: then the file stays, and goes as an orphan if no version names it.
        """
        try:
            added = await self._parts.catalogue.add(
                caller,
                file,
                metadata(start.metadata),
                document_id=start.document_id,
                request_id=start.request_id,
            )
        except (Conflict, InvalidInput, LimitExceeded, NotFound):
            await self._discard(file)
            raise
        if not added.stored:
            await self._discard(file)
        return added

    async def _discard(self, file: StoredFile) -> None:
        """Removes a file that no version names; what was decided stands, come what may."""
        try:
            await self._parts.blobs.delete(file.blob_key)
        except Unavailable as error:
            log.warning("a file nobody needs is left to housekeeping", reason=error.reason)

    async def GetDocument(
        self, request: v1.GetDocumentRequest, _context: Context
    ) -> v1.GetDocumentResponse:
        """Reads one document."""
        caller = require_scope(READ, INTERNAL)
        document = await self._parts.catalogue.get(caller, request.document_id)
        return v1.GetDocumentResponse(document=message(document))

    async def ListDocuments(
        self, request: v1.ListDocumentsRequest, _context: Context
    ) -> v1.ListDocumentsResponse:
        """Lists documents, newest first."""
        caller = require_scope(READ, INTERNAL)
        page = await self._parts.catalogue.page(
            caller,
            size=request.page_size or _DEFAULT_PAGE,
            position=pagetoken.decode(request.page_token),
            state=state(request.state),
            labels=dict(request.labels),
        )
        return v1.ListDocumentsResponse(
            documents=[message(document) for document in page.documents],
            next_page_token=pagetoken.encode(page.next_position),
        )

    async def WatchDocument(
        self, request: v1.WatchDocumentRequest, _context: Context
    ) -> AsyncIterator[v1.WatchDocumentResponse]:
        """Streams the document's state until it is settled."""
        caller = require_scope(READ, INTERNAL)
        seen = None
        while True:
            document = await self._parts.catalogue.get(caller, request.document_id)
            shown = message(document)
            if seen is None or _differ(seen, shown):
                yield v1.WatchDocumentResponse(document=shown)
                seen = shown
            if document.state in SETTLED:
                return
            if self._parts.draining.is_set():
                # A watch may last for hours; the process must not.
                raise Unavailable(
                    "SERVICE_DRAINING", "This instance stops; watch again.", retry_after=1.0
                )
            await self._parts.changes.wait(request.document_id, _WATCH_SECONDS)

    async def DeleteDocument(
        self, request: v1.DeleteDocumentRequest, _context: Context
    ) -> v1.DeleteDocumentResponse:
        """Removes a document everywhere."""
        caller = require_scope(WRITE)
        await self._parts.removal.remove(caller, request.document_id, request.request_id)
        return v1.DeleteDocumentResponse()

    async def ReprocessDocument(
        self, request: v1.ReprocessDocumentRequest, _context: Context
    ) -> v1.ReprocessDocumentResponse:
        """Processes the stored file anew as a new version."""
        caller = require_scope(WRITE)
        document = await self._parts.catalogue.reprocess(
            caller, request.document_id, request.request_id
        )
        self._parts.changes.notify(document.document_id)
        return v1.ReprocessDocumentResponse(document=message(document))

    async def ExportProject(
        self, request: v1.ExportProjectRequest, _context: Context
    ) -> AsyncIterator[v1.ExportProjectResponse]:
        """Streams documents and chunks as JSON lines."""
        caller = require_scope(ADMIN, INTERNAL)
        position: dict[str, Any] = {}
        while True:
            page = await self._parts.catalogue.export_page(
                caller.project_id, size=_EXPORT_PAGE, position=position
            )
            if page.documents:
                yield v1.ExportProjectResponse(lines=b"".join(map(document_line, page.documents)))
            position = page.next_position
            if not position:
                break
        if request.documents_only:
            return
        async for chunks in self._parts.neighbours.live_chunks(caller.project_id):
            if chunks:
                yield v1.ExportProjectResponse(lines=b"".join(map(chunk_line, chunks)))

    async def PurgeProject(
        self, request: v1.PurgeProjectRequest, _context: Context
    ) -> v1.PurgeProjectResponse:
        """Removes everything of a project."""
        caller = require_scope(ADMIN, INTERNAL)
        if request.project_id != caller.project_id:
            raise PermissionDenied(
                "PROJECT_MISMATCH", "The signed context is not for the project to be purged."
            )
        receipt = await self._parts.removal.purge(caller.project_id)
        return v1.PurgeProjectResponse(
            documents_removed=receipt.documents,
            files_removed=receipt.files,
            chunks_removed=receipt.chunks,
        )


async def _start(messages: AsyncIterator[v1.UploadDocumentRequest]) -> v1.UploadStart:
    async for first in messages:
        if first.WhichOneof("part") == "start":
            return first.start
        break
    raise InvalidInput("UPLOAD_START_MISSING", "The first message of an upload carries `start`.")


async def _data(messages: AsyncIterator[v1.UploadDocumentRequest]) -> AsyncIterator[bytes]:
    """The file's bytes; only an upload that says so itself has come to its end."""
    async for part in messages:
        match part.WhichOneof("part"):
            case "data":
                yield part.data
            case "end":
                return
            case _:
                raise InvalidInput(
                    "UPLOAD_START_REPEATED", "Only the first message carries `start`."
                )
    raise InvalidInput("UPLOAD_INCOMPLETE", "The upload broke off before its end; send it again.")


def _differ(seen: v1.Document, shown: v1.Document) -> bool:
    """Whether anything but the time of the last look differs."""
    masked = v1.Document()
    masked.CopyFrom(shown)
    masked.update_time.CopyFrom(seen.update_time)
    return bool(masked != seen)
