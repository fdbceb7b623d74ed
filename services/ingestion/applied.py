"""Requests that were applied: the same one again gets the first one's result."""

from __future__ import annotations

from dataclasses import dataclass

from meshkit.context import RequestContext
from meshkit.database.pool import Connection
from meshkit.errors import Conflict


@dataclass(frozen=True, slots=True)
class Request:
    """A mutation that may be repeated."""

    request_id: str
    method: str
    fingerprint: str
    """Of what is asked; the same id with another one is refused."""


async def earlier(connection: Connection, context: RequestContext, request: Request) -> str | None:
    """The document an earlier request with this id made or changed; None for the first.

    A second request with the id waits here until the first has committed or failed.

    Raises:
        Conflict: REQUEST_ID_REUSED when something else was asked under the id.
    """
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended($1, 1))",
        f"{context.project_id} {context.subject} {request.request_id}",
    )
    row = await connection.fetchrow(
        "SELECT method, fingerprint, document_id FROM ingestion.applied_request"
        " WHERE project_id = $1 AND subject = $2 AND request_id = $3",
        *(context.project_id, context.subject, request.request_id),
    )
    if row is None:
        return None
    if (row["method"], row["fingerprint"]) != (request.method, request.fingerprint):
        raise Conflict(
            "REQUEST_ID_REUSED",
            "This request id was used for something else within the last 24 hours;"
            " give every new request an id of its own.",
        )
    return str(row["document_id"])


async def applied_already(connection: Connection, context: RequestContext, request_id: str) -> bool:
    """Whether a request with this id was applied; does not wait for one that is under way."""
    found = await connection.fetchval(
        "SELECT true FROM ingestion.applied_request"
        " WHERE project_id = $1 AND subject = $2 AND request_id = $3",
        *(context.project_id, context.subject, request_id),
    )
    return bool(found)


async def remember(
    connection: Connection, context: RequestContext, request: Request, document_id: str
) -> None:
    """Notes in the same transaction what the request did."""
    await connection.execute(
        "INSERT INTO ingestion.applied_request"
        " (project_id, subject, request_id, method, fingerprint, document_id)"
        " VALUES ($1, $2, $3, $4, $5, $6)",
        *(context.project_id, context.subject, request.request_id),
        *(request.method, request.fingerprint, document_id),
    )
