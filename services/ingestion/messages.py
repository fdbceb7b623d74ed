"""Documents as protobuf messages, for the servicer only."""

from __future__ import annotations

import json

from google.protobuf.timestamp_pb2 import Timestamp

from citemesh.ingestion import v1
from services.ingestion.documents import Document, Metadata, State
from services.ingestion.file_names import file_name, one_line
from services.ingestion.neighbours import ExportedChunk

_STATES = {
    State.QUEUED: v1.DOCUMENT_STATE_QUEUED,
    State.PROCESSING: v1.DOCUMENT_STATE_PROCESSING,
    State.READY: v1.DOCUMENT_STATE_READY,
    State.FAILED: v1.DOCUMENT_STATE_FAILED,
    State.QUARANTINED: v1.DOCUMENT_STATE_QUARANTINED,
    # The latest version is superseded only for the moment before the next one is there.
    State.SUPERSEDED: v1.DOCUMENT_STATE_QUEUED,
}


def message(document: Document) -> v1.Document:
    """A document."""
    found = v1.Document(
        id=document.document_id,
        version=document.version,
        state=_STATES[document.state],
        stage=document.stage,
        progress=v1.Progress(done=document.done, total=document.total),
        title=document.title,
        file_name=document.file_name,
        media_type=document.media_type,
        size_bytes=document.size_bytes,
        sha256=document.sha256,
        labels=document.labels,
        allow=document.allow,
        page_count=document.page_count,
        chunk_count=document.chunk_count,
        live_version=document.live_version,
        warnings=document.warnings,
    )
    for field, moment in (
        (found.create_time, document.created_at),
        (found.version_time, document.version_at),
        (found.update_time, document.updated_at),
    ):
        timestamp = Timestamp()
        timestamp.FromDatetime(moment)
        field.CopyFrom(timestamp)
    if document.error_reason:
        found.error.reason = document.error_reason
        found.error.detail = document.error_detail
    return found


def metadata(given: v1.DocumentMetadata) -> Metadata:
    """What a caller says of a file."""
    return Metadata(
        file_name=file_name(given.file_name),
        title=one_line(given.title),
        labels=dict(given.labels),
        allow=tuple(given.allow),
    )


def state(asked: int) -> State | None:
    """The state a list is restricted to; None for all."""
    return next((ours for ours, theirs in _STATES.items() if int(theirs) == asked), None)


def document_line(document: Document) -> bytes:
    """A document as a line of an export."""
    return _line(
        {
            "kind": "document",
            "id": document.document_id,
            "version": document.version,
            "state": document.state,
            "title": document.title,
            "file_name": document.file_name,
            "media_type": document.media_type,
            "size_bytes": document.size_bytes,
            "sha256": document.sha256,
            "labels": dict(document.labels),
            "allow": list(document.allow),
            "page_count": document.page_count,
            "chunk_count": document.chunk_count,
            "live_version": document.live_version,
            "create_time": document.created_at.isoformat(),
            "version_time": document.version_at.isoformat(),
        }
    )


def chunk_line(chunk: ExportedChunk) -> bytes:
    """A chunk as a line of an export."""
    return _line(
        {
            "kind": "chunk",
            "id": chunk.chunk_id,
            "document_id": chunk.document_id,
            "version": chunk.version,
            "ordinal": chunk.ordinal,
            "page": chunk.page,
            "headings": list(chunk.headings),
            "text": chunk.text,
        }
    )


def _line(values: dict[str, object]) -> bytes:
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"
