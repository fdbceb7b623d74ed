"""/v1/documents: files in, their states, their chunks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from google.protobuf.timestamp_pb2 import Timestamp
from starlette.responses import Response
from typing_extensions import TypedDict

from citemesh.ingestion import v1 as ingestion_v1
from citemesh.retrieval import v1 as retrieval_v1
from gateway import problem, sse
from gateway.admission import BULK
from gateway.endpoint import GuardedRoute, caller_of, requires
from gateway.following import Following
from gateway.json_response import JsonResponse
from gateway.mesh import mesh_of
from gateway.problem import request_id_of
from gateway.routes import idempotency
from gateway.upload import RefusedUpload, upload
from meshkit.context import acting_as
from meshkit.errors import InvalidInput, MeshError

router = APIRouter(
    prefix="/v1/documents",
    tags=["documents"],
    route_class=GuardedRoute,
    responses=problem.RESPONSES,
)

State = Literal["queued", "processing", "ready", "failed", "quarantined"]
_STATES: dict[int, str] = {
    number: name.removeprefix("DOCUMENT_STATE_").lower()
    for name, number in ingestion_v1.DocumentState.items()
    if number
}
_NUMBERS: dict[str, Any] = {name: number for number, name in _STATES.items()}


class Progress(TypedDict):
    """Units done and units there are; `total` is 0 while unknown."""

    done: int
    total: int


class DocumentError(TypedDict):
    """Why a document failed, was quarantined or is held in the queue."""

    reason: str
    detail: str


class Document(TypedDict):
    """A document and where its processing stands."""

    id: str
    version: int
    state: str
    stage: str
    progress: Progress
    error: DocumentError | None
    title: str
    file_name: str
    media_type: str
    size_bytes: int
    sha256: str
    labels: dict[str, str]
    allow: list[str]
    page_count: int
    chunk_count: int
    live_version: int
    create_time: str | None
    version_time: str | None
    update_time: str | None
    warnings: list[str]


class DocumentPage(TypedDict):
    """A page of documents, newest first; no token on the last one."""

    documents: list[Document]
    next_page_token: str


class Chunk(TypedDict):
    """A chunk of the live version."""

    chunk_id: str
    document_id: str
    version: int
    ordinal: int
    title: str
    page: int
    page_end: int
    headings: list[str]
    section: str
    """Sheet with its cells (`Leave!A2:D5`), slide or attachment; empty for other formats."""
    start: int
    """First character in the extracted text, in Unicode code points."""
    end: int
    text: str
    token_count: int
    flags: list[str]


class ChunkPage(TypedDict):
    """A page of chunks in reading order; no token on the last one."""

    chunks: list[Chunk]
    next_page_token: str


def _time(found: Timestamp) -> str | None:
    return found.ToJsonString() if found.seconds else None


def document_json(found: ingestion_v1.Document) -> Document:
    """A document as REST shows it."""
    error: DocumentError | None = None
    if found.HasField("error"):
        error = {"reason": found.error.reason, "detail": found.error.detail}
    return {
        "id": found.id,
        "version": found.version,
        "state": _STATES.get(found.state, "queued"),
        "stage": found.stage,
        "progress": {"done": found.progress.done, "total": found.progress.total},
        "error": error,
        "title": found.title,
        "file_name": found.file_name,
        "media_type": found.media_type,
        "size_bytes": found.size_bytes,
        "sha256": found.sha256,
        "labels": dict(found.labels),
        "allow": list(found.allow),
        "page_count": found.page_count,
        "chunk_count": found.chunk_count,
        "live_version": found.live_version,
        "create_time": _time(found.create_time),
        "version_time": _time(found.version_time),
        "update_time": _time(found.update_time),
        "warnings": list(found.warnings),
    }


def _labels(given: list[str]) -> dict[str, str]:
    """`label=year=2024` as a pair."""
    pairs = [text.partition("=") for text in given]
    if not all(key and equals for key, equals, _ in pairs):
        raise InvalidInput("FIELD_INVALID", "A label is given as `label=name=value`.")
    return {key: value for key, _, value in pairs}


_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "title": {"type": "string"},
                        "labels": {"type": "string", "description": "JSON object of strings"},
                        "allow": {"type": "string", "description": "JSON list of principals"},
                        "file": {"type": "string", "format": "binary"},
                    },
                }
            }
        },
    },
    "parameters": [
        {
            "name": idempotency.HEADER,
            "in": "header",
            "description": "The same key again within 24 hours returns the first result.",
            "schema": {"type": "string", "minLength": 8, "maxLength": 128},
        }
    ],
}


async def _upload(request: Request, document_id: str) -> Response:
    try:
        committed = await upload(
            request,
            mesh_of(request),
            document_id=document_id,
            request_id=idempotency.request_id(request),
        )
    except MeshError as error:
        request.scope["state"]["error"] = error
        return RefusedUpload(error, request)
    document = document_json(committed.document)
    return JsonResponse(
        document, status_code=202, headers={"Location": f"/v1/documents/{document['id']}"}
    )


@router.post(
    "",
    status_code=202,
    summary="Upload a document",
    responses={202: {"model": Document}},
    openapi_extra=_FORM,
)
@requires("write", seconds="upload_seconds", kind=BULK)
async def upload_document(request: Request) -> Response:
    """Takes a file and returns when it is committed; follow its state at `/events`."""
    return await _upload(request, "")


@router.put(
    "/{document_id}",
    status_code=202,
    summary="Upload a new version",
    responses={202: {"model": Document}},
    openapi_extra=_FORM,
)
@requires("write", seconds="upload_seconds", kind=BULK)
async def upload_version(request: Request, document_id: str) -> Response:
    """Takes a new version of a document; the old one answers until the new one is ready."""
    return await _upload(request, document_id)


@router.get("", summary="List documents", responses={200: {"model": DocumentPage}})
@requires("read")
async def list_documents(
    request: Request,
    page_size: Annotated[int, Query(ge=1, le=200)] = 50,
    page_token: Annotated[str, Query(max_length=1024)] = "",
    state: Annotated[State | None, Query()] = None,
    label: Annotated[list[str], Query(max_length=16, description="`name=value`")] = [],  # noqa: B006
) -> Response:
    """Documents the caller may see, newest first."""
    found = await mesh_of(request).ingestion.ListDocuments(
        ingestion_v1.ListDocumentsRequest(
            page_size=page_size,
            page_token=page_token,
            state=_NUMBERS[state] if state else ingestion_v1.DOCUMENT_STATE_UNSPECIFIED,
            labels=_labels(label),
        )
    )
    page: DocumentPage = {
        "documents": [document_json(document) for document in found.documents],
        "next_page_token": found.next_page_token,
    }
    return JsonResponse(page)


@router.get("/{document_id}", summary="Read a document", responses={200: {"model": Document}})
@requires("read")
async def get_document(request: Request, document_id: str) -> Response:
    """One document with its state, stage and progress."""
    found = await mesh_of(request).ingestion.GetDocument(
        ingestion_v1.GetDocumentRequest(document_id=document_id)
    )
    return JsonResponse(document_json(found.document))


@router.delete("/{document_id}", status_code=204, summary="Delete a document")
@requires("write")
async def delete_document(request: Request, document_id: str) -> Response:
    """Removes a document; when the call returns no answer uses it any more."""
    await mesh_of(request).ingestion.DeleteDocument(
        ingestion_v1.DeleteDocumentRequest(
            document_id=document_id, request_id=idempotency.request_id(request)
        )
    )
    return Response(status_code=204)


@router.post(
    "/{document_id}:reprocess",
    status_code=202,
    summary="Process a document anew",
    responses={202: {"model": Document}},
)
@requires("write", kind=BULK)
async def reprocess_document(request: Request, document_id: str) -> Response:
    """Processes the stored file as a new version; the old one answers until it is ready."""
    found = await mesh_of(request).ingestion.ReprocessDocument(
        ingestion_v1.ReprocessDocumentRequest(
            document_id=document_id, request_id=idempotency.request_id(request)
        )
    )
    return JsonResponse(document_json(found.document), status_code=202)


@router.get(
    "/{document_id}/events",
    summary="Follow a document",
    responses={
        200: {
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
            "description": "`state` events, each with the document, until it is `ready`, "
            "`failed` or `quarantined`; an `error` event when the stream breaks.",
        }
    },
)
@requires("read", seconds="watch_seconds", kind=None)
async def watch_document(request: Request, document_id: str) -> Response:
    """Server-sent events, one at once and one at every change."""
    mesh, caller, request_id = mesh_of(request), caller_of(request), request_id_of(request)

    def watch(seconds: float) -> Any:
        # Signed now: a stream that is renewed may begin after its first context has ended.
        with acting_as(mesh.contexts.of(caller, request_id)):
            return mesh.ingestion.WatchDocument(
                ingestion_v1.WatchDocumentRequest(document_id=document_id), timeout=seconds
            )

    return sse.EventStream(
        await sse.events(
            Following(watch, mesh.settings.watch_seconds),
            lambda message: sse.event("state", document_json(message.document)),
            request=request,
            keep_alive_seconds=mesh.settings.keep_alive_seconds,
            until=mesh.draining,
        )
    )


@router.get(
    "/{document_id}/chunks",
    summary="Read a document's chunks",
    responses={200: {"model": ChunkPage}},
)
@requires("read")
async def read_chunks(
    request: Request,
    document_id: str,
    page_size: Annotated[int, Query(ge=1, le=256)] = 50,
    page_token: Annotated[str, Query(max_length=1024)] = "",
) -> Response:
    """Chunks of the live version in reading order; empty while there is none."""
    mesh = mesh_of(request)
    # Retrieval knows live versions only; whether the document exists is ingestion's to say.
    await mesh.ingestion.GetDocument(ingestion_v1.GetDocumentRequest(document_id=document_id))
    found = await mesh.retrieval.ReadChunks(
        retrieval_v1.ReadChunksRequest(
            document_id=document_id, page_size=page_size, page_token=page_token
        )
    )
    page: ChunkPage = {
        "chunks": [_chunk(chunk) for chunk in found.chunks],
        "next_page_token": found.next_page_token,
    }
    return JsonResponse(page)


def _chunk(found: retrieval_v1.StoredChunk) -> Chunk:
    return {
        "chunk_id": found.chunk_id,
        "document_id": found.document_id,
        "version": found.version,
        "ordinal": found.ordinal,
        "title": found.title,
        "page": found.location.page,
        "page_end": found.location.page_end,
        "headings": list(found.location.headings),
        "section": found.location.section,
        "start": found.location.start,
        "end": found.location.end,
        "text": found.text,
        "token_count": found.token_count,
        "flags": list(found.flags),
    }
