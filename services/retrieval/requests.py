"""Mutations that were applied once: a replay gets the first answer."""

from __future__ import annotations

import json
from typing import Any

from meshkit.database.pool import Connection
from meshkit.errors import Conflict


async def remembered(
    connection: Connection, project_id: str, request_id: str, method: str
) -> dict[str, Any] | None:
    """The result of an earlier call with this id; None for the first.

    A second call with the id waits until the first has committed or failed.

    Raises:
        Conflict: REQUEST_ID_REUSED when another method used the id.
    """
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"{project_id} {request_id}"
    )
    row = await connection.fetchrow(
        "SELECT method, result FROM retrieval.applied_request "
        "WHERE project_id = $1 AND request_id = $2",
        project_id,
        request_id,
    )
    if row is None:
        return None
    if row["method"] != method:
        raise Conflict("REQUEST_ID_REUSED", "This request id belongs to another kind of call.")
    result: dict[str, Any] = json.loads(row["result"])
    return result


async def remember(
    connection: Connection, project_id: str, request_id: str, method: str, result: dict[str, Any]
) -> None:
    """Notes a result in the transaction that makes the change."""
    await connection.execute(
        "INSERT INTO retrieval.applied_request (project_id, request_id, method, result) "
        "VALUES ($1, $2, $3, $4)",
        project_id,
        request_id,
        method,
        json.dumps(result),
    )
