"""The one statement of a search: dense neighbours, lexical candidates, rights, texts.

Postgres decides in one snapshot which candidates are live and may be seen, and
sends the texts of those that plain reciprocal rank fusion puts first. What another
fusion prefers is fetched in a second, equally checked, round trip.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meshkit.database.pool import Database
from services.retrieval.passages import Chunk, Filter, Location, Vectors


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks, and where."""

    project_id: str
    principals: Sequence[str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a search asks of Postgres."""

    depth: int
    """Dense candidates."""
    texts: int
    """Candidates whose texts are sent along."""
    restrict: Filter
    dense_weight: float
    lexical_weight: float


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a search may choose from."""

    corpus_epoch: int
    dense_keys: Sequence[int]
    """By descending similarity."""
    similarities: Sequence[float]
    """Cosine similarity of each dense key, -1 to 1."""
    lexical_keys: Sequence[int]
    """Those of the lexical candidates that may be seen, in their order."""
    rows: dict[int, Any]
    """Chunks by key; not of every candidate."""

    def chunk(self, key: int) -> Chunk:
        """The chunk of a candidate whose row is here."""
        return chunk_of(self.rows[key])


def chunk_of(row: Any) -> Chunk:
    """A chunk from a row of `chunk` joined with its document's title."""
    return Chunk(
        document_id=row["document_id"],
        version=row["version"],
        ordinal=row["ordinal"],
        title=row["title"],
        text=row["body"],
        location=Location(
            page=row["page"],
            page_end=row["page_end"],
            headings=row["headings"],
            start=row["span_start"],
            end=row["span_end"],
            section=row["section"],
        ),
        token_count=row["token_count"],
        flags=row["flags"],
    )


async def fetch_candidates(
    database: Database,
    viewer: Viewer,
    wanted: Wanted,
    *,
    space_number: int | None,
    vector: Vectors | None,
    lexical_keys: Sequence[int],
) -> Candidates:
    """Everything a search can choose from, in one round trip and one snapshot.

    Args:
        database: The pool.
        viewer: Project and principals; decide what is visible.
        wanted: How much of what.
        space_number: Dense table to search; None searches none.
        vector: Query vector, shape (dimensions,); None searches no dense table.
        lexical_keys: Candidates of the lexical index, best first; checked alike.
    """
    restrict = wanted.restrict
    arguments = (
        lexical_keys,
        wanted.texts,
        wanted.dense_weight,
        wanted.lexical_weight,
        viewer.principals,
        json.dumps(dict(restrict.labels)) if restrict.labels else None,
        list(restrict.document_ids) or None,
        restrict.activated_after,
        restrict.activated_before,
    )
    async with database.connection() as connection:
        if space_number is None or vector is None:
            rows = await connection.fetch(
                "SELECT * FROM retrieval.search_lexical($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                viewer.project_id,
                *arguments,
            )
        else:
            rows = await connection.fetch(
                f"SELECT * FROM retrieval.search_{space_number:d}"  # noqa: S608 - our own names
                "($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
                viewer.project_id,
                vector.tolist(),
                wanted.depth,
                *arguments,
            )
    header = next(row for row in rows if row["key"] == 0)
    return Candidates(
        corpus_epoch=header["corpus_epoch"],
        dense_keys=header["dense_keys"] or [],
        similarities=[1.0 - distance for distance in header["distances"] or []],
        lexical_keys=header["lexical_keys"] or [],
        rows={row["key"]: row for row in rows if row["key"]},
    )


async def fetch_missing(
    database: Database, viewer: Viewer, candidates: Candidates, keys: Sequence[int]
) -> None:
    """Adds the rows of candidates that have none yet; those no longer visible stay out."""
    missing = [key for key in keys if key not in candidates.rows]
    if not missing:
        return
    everything = Wanted(0, len(missing), Filter(), 1.0, 1.0)
    found = await fetch_candidates(
        database, viewer, everything, space_number=None, vector=None, lexical_keys=missing
    )
    candidates.rows.update(found.rows)
