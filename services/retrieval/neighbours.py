"""A hit with what stands around it: pure windows, and the one query that reads them.

Each chunk near several hits goes to the nearest of them (the better one on a tie),
so windows never overlap and every hit keeps its own chunk. Chunks overlap in the
text they were cut from; their spans say by how much, and the repeated characters
are left out when they are joined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meshkit.database.pool import Database
from services.retrieval.passages import Chunk


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk's text and the span of the document it was cut from."""

    ordinal: int
    text: str
    start: int
    end: int


def windows(ordinals: Sequence[int], reach: int) -> list[range]:
    """Ordinals around each hit of one document, none in two windows.

    Args:
        ordinals: Distinct ordinals of the hits, best hit first.
        reach: Chunks wanted before and after each.
    """
    inside: list[range] = []
    for place, ordinal in enumerate(ordinals):
        low, high = max(0, ordinal - reach), ordinal + reach
        for other_place, other in enumerate(ordinals):
            distance = abs(other - ordinal)
            if other == ordinal or distance > 2 * reach:
                continue
            # Of the chunks between two hits, a middle one goes to the better hit.
            share = distance // 2 if place < other_place else (distance - 1) // 2
            if other < ordinal:
                low = max(low, ordinal - share)
            else:
                high = min(high, ordinal + share)
        inside.append(range(low, high + 1))
    return inside


def join(pieces: Sequence[Piece]) -> str:
    """Texts in reading order, without the characters that two neighbours share."""
    joined: list[str] = []
    reached: int | None = None
    for piece in sorted(pieces, key=lambda piece: piece.ordinal):
        if reached is None:
            joined.append(piece.text)
        elif piece.start >= reached:
            joined += ["" if piece.start == reached else "\n\n", piece.text]
        else:
            joined.append(piece.text[reached - piece.start :])
        reached = piece.end if reached is None else max(reached, piece.end)
    return "".join(joined)


async def contexts(
    database: Database, project_id: str, hits: Sequence[Chunk], reach: int
) -> list[str]:
    """Each hit's text with its neighbours, in the order of the hits."""
    by_document: dict[tuple[str, int], list[int]] = {}
    for hit in hits:
        by_document.setdefault((hit.document_id, hit.version), []).append(hit.ordinal)
    spans = {
        (*document, ordinal): window
        for document, ordinals in by_document.items()
        for ordinal, window in zip(ordinals, windows(ordinals, reach), strict=True)
    }
    pieces = await _read(database, project_id, spans)
    return [
        join(
            [
                pieces.get((hit.document_id, hit.version, ordinal), _own(hit))
                for ordinal in spans[hit.document_id, hit.version, hit.ordinal]
                if ordinal == hit.ordinal or (hit.document_id, hit.version, ordinal) in pieces
            ]
        )
        for hit in hits
    ]


def _own(hit: Chunk) -> Piece:
    return Piece(hit.ordinal, hit.text, hit.location.start, hit.location.end)


async def _read(
    database: Database, project_id: str, spans: Mapping[tuple[str, int, int], range]
) -> dict[tuple[str, int, int], Piece]:
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT * FROM retrieval.neighbours($1, $2, $3, $4, $5)",
            project_id,
            [document for document, _, _ in spans],
            [version for _, version, _ in spans],
            [window.start for window in spans.values()],
            [window.stop - 1 for window in spans.values()],
        )
    return {
        (row["document_id"], row["version"], row["ordinal"]): Piece(
            row["ordinal"], row["body"], row["span_start"], row["span_end"]
        )
        for row in rows
    }
