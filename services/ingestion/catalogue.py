"""Documents of a project: reading them, and adding versions for the worker to take.

Adding commits document, version (which is the job), the applied request and the
worker's wake-up in one transaction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from meshkit.context import RequestContext
from meshkit.database.pool import Connection, Database
from meshkit.errors import Conflict, InvalidInput, LimitExceeded, NotFound
from meshkit.ids import new_id
from services.ingestion import versions
from services.ingestion.applied import Request, applied_already, earlier, remember
from services.ingestion.documents import REFUSED, Document, Metadata, State, StoredFile
from services.ingestion.purged import refuse_purged
from services.ingestion.rows import DOCUMENT_COLUMNS, LATEST, VISIBLE, document

NOT_FOUND = NotFound("DOCUMENT_NOT_FOUND", "There is no such document in this project.")


@dataclass(frozen=True, slots=True)
class Added:
    """What adding a file came to."""

    document: Document
    existing: bool
    """There is no new version: the same content, or the same request."""
    stored: bool
    """A version reads the file that was sent; otherwise nobody needs it."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list."""

    documents: list[Document]
    next_position: dict[str, Any]
    """Empty on the last page."""


class Catalogue:
    """Documents in Postgres.

    Args:
        database: As the runtime role.
        queue_limit: Versions of one project that may wait; more are refused.
    """

    def __init__(self, database: Database, queue_limit: int) -> None:
        self._database = database
        self._queue_limit = queue_limit

    async def get(self, context: RequestContext, document_id: str) -> Document:
        """One document.

        Raises:
            NotFound: DOCUMENT_NOT_FOUND, also when the caller may not see it.
        """
        async with self._database.project(context.project_id) as connection:
            return await _get(connection, context, document_id)

    async def page(
        self,
        context: RequestContext,
        *,
        size: int,
        position: Mapping[str, Any],
        state: State | None,
        labels: Mapping[str, str],
    ) -> Page:
        """A page of documents the caller may see, newest first.

        Args:
            context: Who asks.
            size: Documents at most.
            position: `next_position` of the page before; empty for the first.
            state: Only documents in this state.
            labels: Only documents that carry all of these.

        Raises:
            InvalidInput: PAGE_TOKEN_INVALID.
        """
        after, after_id = _position(position)
        async with self._database.project(context.project_id) as connection:
            rows = await connection.fetch(
                f"""SELECT {DOCUMENT_COLUMNS} FROM {LATEST}
                WHERE d.project_id = $1 AND {VISIBLE.format(2)} AND v.labels @> $3::jsonb
                  AND ($4::text IS NULL OR v.state = $4)
                  AND ($5::timestamptz IS NULL OR (d.created_at, d.document_id) < ($5, $6))
                ORDER BY d.created_at DESC, d.document_id DESC LIMIT $7""",  # noqa: S608
                *(context.project_id, list(context.principals), json.dumps(dict(labels))),
                *(state, after, after_id, size + 1),
            )
        last = rows[size - 1] if len(rows) > size else None
        return Page(
            [document(row) for row in rows[:size]],
            {"at": last["created_at"].isoformat(), "id": last["document_id"]} if last else {},
        )

    async def export_page(self, project_id: str, *, size: int, position: Mapping[str, Any]) -> Page:
        """A page of all documents of a project in the order of ids, access lists ignored."""
        async with self._database.project(project_id) as connection:
            rows = await connection.fetch(
                f"SELECT {DOCUMENT_COLUMNS} FROM {LATEST}"  # noqa: S608 - our own names
                " WHERE d.project_id = $1 AND d.document_id > $2 ORDER BY d.document_id LIMIT $3",
                *(project_id, position.get("id", ""), size),
            )
        full = len(rows) == size
        return Page(
            [document(row) for row in rows], {"id": rows[-1]["document_id"]} if full else {}
        )

    async def admit(self, context: RequestContext, document_id: str, request_id: str) -> None:
        """Refuses an upload before its file is sent, when it would be refused afterwards.

        Raises:
            NotFound: DOCUMENT_NOT_FOUND.
            LimitExceeded: QUEUE_FULL, unless it is a request that was applied already.
        """
        async with self._database.project(context.project_id) as connection:
            if document_id:
                await _get(connection, context, document_id)
            if not await applied_already(connection, context, request_id):
                await self._check_room(connection, context)

    async def add(
        self,
        context: RequestContext,
        file: StoredFile,
        metadata: Metadata,
        *,
        document_id: str,
        request_id: str,
    ) -> Added:
        """Makes a stored file a new document, or a new version of one.

        Args:
            context: Who uploads; the worker will act for them.
            file: The file in the blob store.
            metadata: What the caller says of it.
            document_id: Document to add a version to; empty for a new document.
            request_id: Makes a repeated call return the first result.

        Raises:
            Conflict: REQUEST_ID_REUSED.
            NotFound: DOCUMENT_NOT_FOUND, PROJECT_PURGED.
            LimitExceeded: QUEUE_FULL.
        """
        request = Request(request_id, "upload", f"{file.sha256} {document_id}")
        async with self._database.project(context.project_id) as connection:
            await refuse_purged(connection, context.project_id)
            known = await earlier(connection, context, request)
            if known is not None:
                found = await _get(connection, context, known)
                return Added(found, existing=True, stored=False)
            if document_id:
                added = await self._add_version(connection, context, document_id, file, metadata)
            else:
                added = await self._add_document(connection, context, file, metadata)
            await remember(connection, context, request, added.document.document_id)
            return added

    async def reprocess(
        self, context: RequestContext, document_id: str, request_id: str
    ) -> Document:
        """Queues the stored file as a new version; one that waits already is enough.

        Raises:
            Conflict: REQUEST_ID_REUSED, DOCUMENT_QUARANTINED.
            NotFound: DOCUMENT_NOT_FOUND, PROJECT_PURGED.
            LimitExceeded: QUEUE_FULL.
        """
        request = Request(request_id, "reprocess", document_id)
        async with self._database.project(context.project_id) as connection:
            await refuse_purged(connection, context.project_id)
            if await earlier(connection, context, request) is None:
                await _lock(connection, context, document_id)
                latest = await _get(connection, context, document_id)
                if latest.state is State.QUARANTINED:
                    raise Conflict(
                        "DOCUMENT_QUARANTINED",
                        "The file was removed because of malware; upload it again to have it"
                        " scanned again.",
                    )
                if latest.state is not State.QUEUED:
                    await self._room(connection, context)
                    await versions.copy_latest(connection, document_id, context)
                await remember(connection, context, request, document_id)
            return await _get(connection, context, document_id)

    async def _add_document(
        self,
        connection: Connection,
        context: RequestContext,
        file: StoredFile,
        metadata: Metadata,
    ) -> Added:
        # Two uploads of the same content at once must become one document.
        await connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended($1, 2))",
            f"{context.project_id} {file.sha256}",
        )
        same = await connection.fetchrow(
            f"""SELECT d.document_id, v.version, v.state FROM {LATEST}
            WHERE v.project_id = $1 AND v.sha256 = $2 AND d.removing_since IS NULL
              AND v.allow = $3 AND {VISIBLE.format(4)}
            ORDER BY d.created_at LIMIT 1 FOR UPDATE OF d""",  # noqa: S608
            *(context.project_id, file.sha256, sorted(metadata.allow)),
            list(context.principals),
        )
        if same is not None:
            failed = State(same["state"]) in REFUSED
            if failed:
                await self._room(connection, context)
                await versions.requeue(connection, same["document_id"], same["version"], file)
            found = await _get(connection, context, same["document_id"])
            return Added(found, existing=True, stored=failed)
        await self._room(connection, context)
        document_id = new_id("doc")
        await connection.execute(
            "INSERT INTO ingestion.document (document_id, project_id, latest_version)"
            " VALUES ($1, $2, 1)",
            *(document_id, context.project_id),
        )
        await versions.insert(connection, context, document_id, 1, file, metadata)
        found = await _get(connection, context, document_id)
        return Added(found, existing=False, stored=True)

    async def _add_version(
        self,
        connection: Connection,
        context: RequestContext,
        document_id: str,
        file: StoredFile,
        metadata: Metadata,
    ) -> Added:
        await _lock(connection, context, document_id)
        latest = await _get(connection, context, document_id)
        if latest.sha256 == file.sha256 and latest.state not in REFUSED:
            return Added(latest, existing=True, stored=False)
        await self._room(connection, context)
        # What the caller leaves empty stays as it was: above all who may see it.
        merged = Metadata(
            metadata.file_name,
            metadata.title,
            metadata.labels or latest.labels,
            metadata.allow or latest.allow,
        )
        version = await versions.take_next(connection, document_id)
        await versions.insert(connection, context, document_id, version, file, merged)
        found = await _get(connection, context, document_id)
        return Added(found, existing=False, stored=True)

    async def _room(self, connection: Connection, context: RequestContext) -> None:
        """Refuses more work than the queue may hold, and wakes a worker for what is added."""
        await self._check_room(connection, context)
        await versions.wake_workers(connection)

    async def _check_room(self, connection: Connection, context: RequestContext) -> None:
        waiting = await connection.fetchval(
            """SELECT count(*) FROM (SELECT FROM ingestion.document_version
            WHERE project_id = $1 AND state IN ('queued', 'processing') LIMIT $2) AS waiting""",
            *(context.project_id, self._queue_limit),
        )
        if waiting >= self._queue_limit:
            raise LimitExceeded(
                "QUEUE_FULL",
                f"{self._queue_limit} documents of this project wait already; try again later.",
                retry_after=60.0,
            )


def _position(position: Mapping[str, Any]) -> tuple[datetime | None, str]:
    if not position:
        return None, ""
    try:
        return datetime.fromisoformat(position["at"]), str(position["id"])
    except (KeyError, TypeError, ValueError):
        raise InvalidInput(
            "PAGE_TOKEN_INVALID", "The page token is none that this service gave."
        ) from None


async def _get(connection: Connection, context: RequestContext, document_id: str) -> Document:
    row = await connection.fetchrow(
        f"SELECT {DOCUMENT_COLUMNS} FROM {LATEST} WHERE d.document_id = $1 AND {VISIBLE.format(2)}",  # noqa: S608
        *(document_id, list(context.principals)),
    )
    if row is None:
        raise NOT_FOUND
    return document(row)


async def _lock(connection: Connection, context: RequestContext, document_id: str) -> None:
    """Locks a document the caller may see and that is not being removed."""
    found = await connection.fetchval(
        f"""SELECT true FROM {LATEST}
        WHERE d.document_id = $1 AND {VISIBLE.format(2)} AND d.removing_since IS NULL
        FOR UPDATE OF d""",  # noqa: S608
        *(document_id, list(context.principals)),
    )
    if not found:
        raise NOT_FOUND
