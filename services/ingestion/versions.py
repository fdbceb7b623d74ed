"""Versions of a document coming into being: each is a job for the worker.

Every function runs inside a transaction that holds the lock of the document's row.
"""

from __future__ import annotations

import json

from meshkit.context import RequestContext
from meshkit.database.pool import Connection
from meshkit.telemetry.tracing import propagation
from services.ingestion.documents import Metadata, StoredFile
from services.ingestion.file_names import title_of

CHANNEL = "ingestion_queue"
"""NOTIFY channel that wakes workers when work is added; never used for progress."""


async def wake_workers(connection: Connection) -> None:
    """Wakes every worker once the transaction has committed."""
    await connection.execute(f"NOTIFY {CHANNEL}")


async def take_next(connection: Connection, document_id: str) -> int:
    """Takes the next version's number; those that still waited are not needed any more."""
    await connection.execute(
        "UPDATE ingestion.document_version SET state = 'superseded', updated_at = now()"
        " WHERE document_id = $1 AND state = 'queued'",
        document_id,
    )
    version = await connection.fetchval(
        "UPDATE ingestion.document SET latest_version = latest_version + 1"
        " WHERE document_id = $1 RETURNING latest_version",
        document_id,
    )
    return int(version)


async def insert(
    connection: Connection,
    context: RequestContext,
    document_id: str,
    version: int,
    file: StoredFile,
    metadata: Metadata,
) -> None:
    """Queues a file as a version."""
    await connection.execute(
        """INSERT INTO ingestion.document_version (
            document_id, version, project_id, file_name, given_title, title, labels, allow,
            blob_key, media_type, size_bytes, sha256, subject, principals, request_id,
            trace_parent, chunk_tokens, chunk_overlap_tokens
        ) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
        """,
        *(document_id, version, context.project_id, metadata.file_name, metadata.title),
        title_of(metadata.title, "", metadata.file_name),
        *(json.dumps(dict(metadata.labels)), sorted(metadata.allow)),
        *(file.blob_key, file.media_type, file.size_bytes, file.sha256),
        *(context.subject, list(context.principals), context.request_id),
        dict(propagation()).get("traceparent", ""),
        *(context.settings.chunk_tokens, context.settings.chunk_overlap_tokens),
    )


async def copy_latest(
    connection: Connection, document_id: str, context: RequestContext | None = None
) -> int:
    """Queues the latest version's file anew as the next version; returns its number.

    Args:
        connection: A transaction that holds the document's lock.
        document_id: The document.
        context: Who asks for it; None keeps whoever asked before, and their project's settings.
    """
    latest = await take_next(connection, document_id) - 1
    await connection.execute(
        """INSERT INTO ingestion.document_version (
            document_id, version, project_id, file_name, given_title, title, labels, allow,
            blob_key, media_type, size_bytes, sha256, subject, principals, request_id,
            trace_parent, chunk_tokens, chunk_overlap_tokens
        ) SELECT document_id, version + 1, project_id, file_name, given_title, title, labels,
            allow, blob_key, media_type, size_bytes, sha256, coalesce($3, subject),
            coalesce($4, principals), coalesce($5, request_id), coalesce($6, trace_parent),
            CASE WHEN $7 THEN $8 ELSE chunk_tokens END,
            CASE WHEN $7 THEN $9 ELSE chunk_overlap_tokens END
        FROM ingestion.document_version WHERE document_id = $1 AND version = $2""",
        *(document_id, latest),
        context.subject if context else None,
        list(context.principals) if context else None,
        context.request_id if context else None,
        dict(propagation()).get("traceparent", "") if context else None,
        context is not None,
        context.settings.chunk_tokens if context else None,
        context.settings.chunk_overlap_tokens if context else None,
    )
    return latest + 1


async def requeue(connection: Connection, document_id: str, version: int, file: StoredFile) -> None:
    """Gives a version that failed or was quarantined another chance, with what was sent now.

    The content is the same, but its own file may be what is missing or damaged; that one is
    swept as an orphan.
    """
    await connection.execute(
        """UPDATE ingestion.document_version
        SET state = 'queued', stage = '', done = 0, total = 0, error_reason = '',
            error_detail = '', starts_without_progress = 0, not_before = now(),
            queued_at = now(), updated_at = now(), blob_key = $3
        WHERE document_id = $1 AND version = $2 AND state IN ('failed', 'quarantined')""",
        *(document_id, version, file.blob_key),
    )
