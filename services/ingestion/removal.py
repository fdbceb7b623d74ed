"""Taking documents away: first from every answer, then from here.

A removal begins with a higher lease epoch, which takes the document from any
worker, and ends when retrieval has committed it. In between the document is
still listed, as being removed; a repeated DELETE or the sweeper ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from meshkit.context import RequestContext
from meshkit.database.pool import Database
from meshkit.errors import MeshError, NotFound, Unavailable
from meshkit.logging import logger
from services.ingestion.applied import Request, earlier, remember
from services.ingestion.blobs import BlobStore
from services.ingestion.changes import Changes
from services.ingestion.neighbours import Neighbours
from services.ingestion.purged import REMEMBERED, mark_purged
from services.ingestion.retry import is_transient
from services.ingestion.rows import LATEST, VISIBLE

log = logger(__name__)

T = TypeVar("T")

REPEATABLE = timedelta(hours=24)
"""How long the same request id returns the first result."""
_SWEPT_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a purge removed."""

    documents: int
    files: int
    chunks: int


class Removal:
    """Removes documents and projects.

    Args:
        database: As the runtime role.
        blobs: Where the source files are.
        neighbours: Retrieval and embedding.
        changes: Told of removals.
    """

    def __init__(
        self, database: Database, blobs: BlobStore, neighbours: Neighbours, changes: Changes
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._neighbours = neighbours
        self._changes = changes

    async def remove(self, context: RequestContext, document_id: str, request_id: str) -> None:
        """Removes a document; when this returns no answer uses it.

        Raises:
            NotFound: DOCUMENT_NOT_FOUND.
            Conflict: REQUEST_ID_REUSED.
            Unavailable: RETRIEVAL_UNAVAILABLE; the removal goes on in the background.
        """
        if await self._begin(context, document_id, Request(request_id, "delete", document_id)):
            await self._complete(context.project_id, document_id)

    async def purge(self, project_id: str) -> Receipt:
        """Removes everything of a project, here, in retrieval and in the embedding cache.

        From its first transaction on nothing is added to the project, and no worker claims
        work of it: every document it has is being removed.

        Raises:
            Unavailable: RETRIEVAL_UNAVAILABLE, or what embedding says.
        """
        async with self._database.project(project_id) as connection:
            await mark_purged(connection, project_id)
            # Ordered as every locker of several documents would have to.
            await connection.execute(
                """WITH locked AS (
                    SELECT document_id FROM ingestion.document WHERE project_id = $1
                    ORDER BY document_id FOR UPDATE)
                UPDATE ingestion.document d
                SET removing_since = coalesce(removing_since, now()), lease_epoch = lease_epoch + 1
                FROM locked WHERE d.document_id = locked.document_id""",
                project_id,
            )
            await connection.execute(_TAKE_FROM_WORKERS + " WHERE project_id = $1", project_id)
        chunks = await _reaching(self._neighbours.purge(project_id))
        async with self._database.project(project_id) as connection:
            removed = await connection.execute(
                "DELETE FROM ingestion.document WHERE project_id = $1", project_id
            )
            for table in ("applied_request", "project_turn"):
                await connection.execute(
                    f"DELETE FROM ingestion.{table} WHERE project_id = $1",  # noqa: S608
                    project_id,
                )
        files = await self._blobs.delete_project(project_id)
        log.info("project purged", project_id=project_id)
        return Receipt(int(removed.split()[-1]), files, chunks)

    async def sweep(self, seconds: float) -> None:
        """Ends removals that were begun and not finished, again and again.

        Args:
            seconds: Between two rounds, and how old a removal must be.
        """
        while True:
            await asyncio.sleep(seconds)
            try:
                async with self._database.connection() as connection:
                    rows = await connection.fetch(
                        "SELECT * FROM ingestion.removals($1, $2)",
                        *(timedelta(seconds=seconds), _SWEPT_AT_ONCE),
                    )
                for row in rows:
                    await self._complete_or_tell(row["project_id"], row["document_id"])
            except Unavailable as error:
                log.warning("removals wait", reason=error.reason)

    async def _complete_or_tell(self, project_id: str, document_id: str) -> None:
        """One that retrieval refuses must not stop the process, nor those behind it."""
        try:
            await self._complete(project_id, document_id)
        except Unavailable:
            raise
        except MeshError as error:
            names = {"project_id": project_id, "document_id": document_id}
            log.exception("a removal was refused", reason=error.reason, **names)

    async def _begin(self, context: RequestContext, document_id: str, request: Request) -> bool:
        """Takes the document from its worker; False when it is gone already."""
        async with self._database.project(context.project_id) as connection:
            known = await earlier(connection, context, request)
            epoch = await connection.fetchval(
                f"""SELECT d.lease_epoch FROM {LATEST}
                WHERE d.document_id = $1 AND {VISIBLE.format(2)} FOR UPDATE OF d""",  # noqa: S608
                *(document_id, list(context.principals)),
            )
            if epoch is None:
                if known is not None:
                    return False
                raise NotFound("DOCUMENT_NOT_FOUND", "There is no such document in this project.")
            await connection.execute(
                "UPDATE ingestion.document SET lease_epoch = lease_epoch + 1,"
                " removing_since = coalesce(removing_since, now()) WHERE document_id = $1",
                document_id,
            )
            await connection.execute(_TAKE_FROM_WORKERS + " WHERE document_id = $1", document_id)
            if known is None:
                await remember(connection, context, request, document_id)
        self._changes.notify(document_id)
        return True

    async def _complete(self, project_id: str, document_id: str) -> None:
        """Removes the document from retrieval, then its files, then its rows.

        Files before rows: while the blob store is away the removal stays noted.
        """
        async with self._database.project(project_id) as connection:
            epoch = await connection.fetchval(
                "SELECT lease_epoch FROM ingestion.document"
                " WHERE document_id = $1 AND removing_since IS NOT NULL",
                document_id,
            )
        if epoch is None:
            return
        try:
            await _reaching(self._neighbours.remove(project_id, document_id, epoch))
        except NotFound as error:
            # A purge that broke off after retrieval's part: nothing is left there.
            if error.reason != "PROJECT_PURGED":
                raise
        async with self._database.project(project_id) as connection:
            keys = await connection.fetch(
                "SELECT DISTINCT blob_key FROM ingestion.document_version WHERE document_id = $1",
                document_id,
            )
        for row in keys:
            await self._blobs.delete(row["blob_key"])
        async with self._database.project(project_id) as connection:
            await connection.execute(
                "DELETE FROM ingestion.document WHERE document_id = $1", document_id
            )
        self._changes.notify(document_id)
        log.info("document removed", project_id=project_id, document_id=document_id)


_TAKE_FROM_WORKERS = """
    UPDATE ingestion.document_version
    SET state = CASE state WHEN 'processing' THEN 'queued' ELSE state END,
        lease_owner = '', lease_expires = NULL, updated_at = now()
"""


async def _reaching(call: Awaitable[T]) -> T:
    """The call's result; a neighbour that stays away is named so."""
    try:
        return await call
    except MeshError as error:
        if not is_transient(error):
            raise
        raise Unavailable(
            "RETRIEVAL_UNAVAILABLE",
            "The removal is noted and will be completed, but the index cannot be reached now;"
            " repeat the request to be sure.",
            retry_after=2.0,
        ) from error


async def keep_house(database: Database, blobs: BlobStore, orphan_hours: float) -> None:
    """Forgets old requests and purges and removes files without a version, every ten minutes."""
    while True:
        try:
            async with database.connection() as connection:
                await connection.execute("SELECT ingestion.forget_requests($1)", REPEATABLE)
                await connection.execute("SELECT ingestion.forget_purged($1)", REMEMBERED)
            async for keys in blobs.older_than(orphan_hours * 3600):
                async with database.connection() as connection:
                    rows = await connection.fetch(
                        "SELECT * FROM ingestion.orphaned_blobs($1) AS key", keys
                    )
                for row in rows:
                    await blobs.delete(row["key"])
        except Unavailable as error:
            log.warning("housekeeping waits", reason=error.reason)
        await asyncio.sleep(600)
