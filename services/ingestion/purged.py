"""Projects that were purged: what was under way for one of them is not written any more.

A context outlives the purge of its project by minutes, and an upload by a quarter of an
hour; a row committed then could be purged by nobody.
"""

from __future__ import annotations

from datetime import timedelta

from meshkit.database.pool import Connection
from meshkit.errors import NotFound

REMEMBERED = timedelta(days=1)
"""How long a purged project is refused: longer than any context or upload lasts."""

_LOCK = 0x696E6770
"""With a project: writers hold it shared, a purge alone."""


async def refuse_purged(connection: Connection, project_id: str) -> None:
    """Begins a transaction that adds to a project; a purge waits until it has ended.

    Goes before every other lock, as in `mark_purged`.

    Raises:
        NotFound: PROJECT_PURGED.
    """
    await connection.execute(
        "SELECT pg_advisory_xact_lock_shared($1, hashtext($2))", _LOCK, project_id
    )
    # A statement of its own: it sees what was committed while the lock was waited for.
    if await connection.fetchval(
        "SELECT true FROM ingestion.purged_project WHERE project_id = $1", project_id
    ):
        raise gone()


async def mark_purged(connection: Connection, project_id: str) -> None:
    """Begins a purge: waits for those who add to the project and refuses those who come later."""
    await connection.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", _LOCK, project_id)
    await connection.execute(
        "INSERT INTO ingestion.purged_project (project_id) VALUES ($1)"
        " ON CONFLICT (project_id) DO UPDATE SET purged_at = now()",
        project_id,
    )


def gone() -> NotFound:
    """The error for what comes after a purge."""
    return NotFound("PROJECT_PURGED", "This project was purged; nothing can be added to it.")
