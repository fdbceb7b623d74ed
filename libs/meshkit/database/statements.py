"""A span for each statement, in traces that are recorded; nothing in those that are not.

A span names what a statement does and to what; neither its text nor its arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from meshkit.telemetry import tracing

if TYPE_CHECKING:
    from meshkit.database.pool import Connection

VERBS = frozenset(
    {
        *("BEGIN", "COMMIT", "COPY", "DELETE", "INSERT", "LISTEN", "LOCK", "NOTIFY", "RELEASE"),
        *("ROLLBACK", "SAVEPOINT", "SELECT", "SET", "START", "UPDATE", "WITH"),
    }
)
"""What statements begin with; the few others are `OTHER`."""
_WORD = re.compile(r"[A-Za-z]+")
_OBJECT = re.compile(
    # A table, or a function that is called; not the first column of a selection.
    r"\b(?:(?:FROM|INTO|UPDATE|JOIN)\s+(\w+\.\w+)|SELECT\s+(\w+\.\w+)\()",
    re.IGNORECASE,
)


@lru_cache(maxsize=512)
def summary(statement: str) -> str:
    """What a statement does and to what: `SELECT retrieval.search_1`, `BEGIN`."""
    first = _WORD.search(statement)
    verb = first[0].upper() if first else ""
    if verb not in VERBS:
        return "OTHER"
    found = _OBJECT.search(statement)
    return f"{verb} {found[1] or found[2]}" if found else verb


def _record(query: Any) -> None:
    done = summary(query.query)
    tracing.elapsed(
        done,
        query.elapsed,
        {"db.system.name": "postgresql", "db.query.summary": done},
        error=query.exception,
    )


@contextmanager
def traced(connection: Connection) -> Iterator[None]:
    """Records every statement of the block, when the running trace is recorded."""
    if not tracing.recording():
        yield
        return
    # asyncpg calls back in the context of the statement, whose span is the parent.
    with connection.query_logger(_record):
        yield
