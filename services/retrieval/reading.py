"""Reading stored chunks: by id, a document in reading order, or a whole project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meshkit import pagetoken
from meshkit.database.pool import Database
from meshkit.errors import InvalidInput
from services.retrieval.candidates import Viewer, chunk_of
from services.retrieval.passages import Chunk, parse_chunk_id

LIVE_CHUNKS = """
    SELECT c.document_id, c.version, c.ordinal, d.title, c.body, c.page, c.page_end, c.headings,
           c.span_start, c.span_end, c.section, c.token_count, c.flags
    FROM retrieval.chunk c
    JOIN retrieval.document d
      ON d.project_id = c.project_id AND d.document_id = c.document_id
     AND d.live_version = c.version
    WHERE c.project_id = $1
"""
PERMITTED = "(d.allow = '{}' OR d.allow && $2)"


@dataclass(frozen=True, slots=True)
class Page:
    """A page of chunks and the token of the next; empty on the last."""

    chunks: Sequence[Chunk]
    next_page_token: str = ""


async def by_id(database: Database, viewer: Viewer, chunk_ids: Sequence[str]) -> Page:
    """The live, permitted ones among these chunks, in the order asked for."""
    wanted = list(dict.fromkeys(parsed for text in chunk_ids if (parsed := parse_chunk_id(text))))
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT * FROM retrieval.chunks_by_id($1, $2, $3, $4, $5)",
            viewer.project_id,
            list(viewer.principals),
            [document for document, _, _ in wanted],
            [version for _, version, _ in wanted],
            [ordinal for _, _, ordinal in wanted],
        )
    return Page([chunk_of(row) for row in rows])


async def corpus_epoch(database: Database, project_id: str) -> int:
    """The state of the project's corpus; 0 before its first document."""
    async with database.connection() as connection:
        epoch: int = await connection.fetchval("SELECT retrieval.corpus_epoch($1)", project_id)
    return epoch


async def of_document(
    database: Database, viewer: Viewer, document_id: str, size: int, page_token: str
) -> Page:
    """A page of a document's live chunks in reading order; empty when not permitted.

    A token of a version that is no longer live starts over with the new one.
    """
    position = pagetoken.decode(page_token)
    version, after = _number(position, "v", 0), _number(position, "o", -1)
    async with database.project(viewer.project_id) as connection:
        rows = await connection.fetch(
            f"{LIVE_CHUNKS} AND {PERMITTED} AND c.document_id = $3 "
            "AND (c.version <> $4 OR c.ordinal > $5) ORDER BY c.ordinal LIMIT $6",
            viewer.project_id,
            list(viewer.principals),
            document_id,
            version,
            after,
            size + 1,
        )
    return _page(rows, size, lambda row: {"v": row["version"], "o": row["ordinal"]})


async def of_project(database: Database, project_id: str, size: int, page_token: str) -> Page:
    """A page of every live chunk of the project by document and ordinal, for an export."""
    position = pagetoken.decode(page_token)
    document = position.get("d", "")
    if not isinstance(document, str):
        raise InvalidInput("PAGE_TOKEN_INVALID", "The page token is none that this service gave.")
    async with database.project(project_id) as connection:
        rows = await connection.fetch(
            f"{LIVE_CHUNKS} AND (c.document_id, c.ordinal) > ($2, $3) "
            "ORDER BY c.document_id, c.ordinal LIMIT $4",
            project_id,
            document,
            _number(position, "o", -1),
            size + 1,
        )
    return _page(rows, size, lambda row: {"d": row["document_id"], "o": row["ordinal"]})


def _number(position: dict[str, Any], name: str, default: int) -> int:
    value = position.get(name, default)
    if not isinstance(value, int) or not -1 <= value < 2**31:
        raise InvalidInput("PAGE_TOKEN_INVALID", "The page token is none that this service gave.")
    return value


def _page(rows: Sequence[Any], size: int, position: Any) -> Page:
    chunks = [chunk_of(row) for row in rows[:size]]
    token = pagetoken.encode(position(rows[size - 1])) if len(rows) > size else ""
    return Page(chunks, token)
