"""Rows of schema `ingestion` as the values of `documents`, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from services.ingestion.documents import Document, Job, Stage, State

DOCUMENT_COLUMNS = """
    d.document_id, d.live_version, d.created_at, d.removing_since,
    v.version, v.state, v.stage, v.done, v.total, v.error_reason, v.error_detail, v.title,
    v.file_name, v.media_type, v.size_bytes, v.sha256, v.labels, v.allow, v.page_count,
    v.chunk_count, v.warnings, v.created_at AS version_at, v.updated_at
"""
LATEST = """
    ingestion.document d JOIN ingestion.document_version v
    ON v.document_id = d.document_id AND v.version = d.latest_version
"""
VISIBLE = "(v.allow = '{{}}' OR v.allow && ${})"
"""Condition with the parameter that holds the caller's principals."""


def document(row: Mapping[str, Any]) -> Document:
    """A document from `DOCUMENT_COLUMNS`."""
    removing = row["removing_since"] is not None
    # While it is worked on, what it waited for is history.
    told = row["state"] != State.PROCESSING and not removing
    return Document(
        document_id=row["document_id"],
        version=row["version"],
        # The contract has no state for it: what is being removed is being worked on.
        state=State.PROCESSING if removing else State(row["state"]),
        stage=Stage.REMOVE if removing else row["stage"],
        done=row["done"],
        total=row["total"],
        error_reason=row["error_reason"] if told else "",
        error_detail=row["error_detail"] if told else "",
        title=row["title"],
        file_name=row["file_name"],
        media_type=row["media_type"],
        size_bytes=row["size_bytes"],
        sha256=row["sha256"],
        labels=json.loads(row["labels"]),
        allow=tuple(row["allow"]),
        page_count=row["page_count"],
        chunk_count=row["chunk_count"],
        live_version=row["live_version"],
        warnings=tuple(row["warnings"]),
        created_at=row["created_at"],
        version_at=row["version_at"],
        updated_at=row["updated_at"],
    )


def job(row: Mapping[str, Any]) -> Job:
    """A job from a whole row of `document_version`."""
    return Job(
        project_id=row["project_id"],
        document_id=row["document_id"],
        version=row["version"],
        lease_epoch=row["lease_epoch"],
        file_name=row["file_name"],
        given_title=row["given_title"],
        labels=json.loads(row["labels"]),
        allow=tuple(row["allow"]),
        blob_key=row["blob_key"],
        media_type=row["media_type"],
        plan_digest=row["plan_digest"],
        space=row["space"],
        kept=tuple((held.lower, held.upper) for held in row["kept"]),
        principals=tuple(row["principals"]),
        request_id=row["request_id"],
        trace_parent=row["trace_parent"],
        chunk_tokens=row["chunk_tokens"],
        chunk_overlap_tokens=row["chunk_overlap_tokens"],
    )
