"""The one statement of a search: dense neighbours, lexical candidates, rights, texts.

Postgres decides in one snapshot which candidates are live and may be seen, and
answers with their texts. Returning all of about 100 texts costs 0.2 ms; fetching
the best ten in a second round trip costs 0.3 ms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
class Candidates:
    """What a search may choose from."""

    corpus_epoch: int
    dense_keys: list[int]
    """By descending similarity."""
    similarities: list[float]
    """Cosine similarity of each dense key, -1 to 1."""
    rows: Mapping[int, Any]
    """Every candidate that is live and visible, dense and lexical, by key."""

    def chunk(self, key: int) -> Chunk:
        """The chunk of a candidate."""
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
    *,
    space_number: int | None,
    vector: Vectors | None,
    depth: int,
    lexical_keys: Sequence[int],
    restrict: Filter,
) -> Candidates:
    """Everything a search can choose from, in one round trip and one snapshot.

    Args:
        database: The pool.
        viewer: Project and principals; decide what is visible.
        space_number: Dense table to search; None searches none.
        vector: Query vector, shape (dimensions,); None searches no dense table.
        depth: Dense candidates wanted.
        lexical_keys: Candidates of the lexical index, checked and fetched alike.
        restrict: Further conditions.
    """
    conditions = (
        list(viewer.principals),
        json.dumps(dict(restrict.labels)) if restrict.labels else None,
        list(restrict.document_ids) or None,
        restrict.activated_after,
        restrict.activated_before,
    )
    async with database.connection() as connection:
        if space_number is None or vector is None:
            rows = await connection.fetch(
                "SELECT * FROM retrieval.search_lexical($1, $2, $3, $4, $5, $6, $7)",
                viewer.project_id,
                lexical_keys,
                *conditions,
            )
        else:
            rows = await connection.fetch(
                f"SELECT * FROM retrieval.search_{space_number:d}"  # noqa: S608 - our own names
                "($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                viewer.project_id,
                vector.tolist(),
                depth,
                lexical_keys,
                *conditions,
            )
    return _candidates(rows)


def _candidates(rows: Sequence[Any]) -> Candidates:
    header, found = rows[0], rows[1:]
    # The function's joins need not keep the order of the distances.
    dense = sorted((row["distance"], row["key"]) for row in found if row["distance"] is not None)
    return Candidates(
        corpus_epoch=header["corpus_epoch"],
        dense_keys=[key for _, key in dense],
        similarities=[1.0 - distance for distance, _ in dense],
        rows={row["key"]: row for row in found},
    )
