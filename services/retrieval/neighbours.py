"""A hit with what stands around it: pure windows, and the one query that reads them.

Windows that would overlap are merged and cut between their hits: each chunk near
several hits goes to the nearest of them (the better one on a tie), so nothing is
said twice and every hit, which is what is cited, keeps its own chunk. Chunks
overlap in the text they were cut from; their spans say by how much, and the
repeated characters are left out when they are joined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meshkit.database.pool import Database
from services.retrieval.passages import Chunk, chunk_id


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk's text and the span of the document it was cut from."""

    ordinal: int
    text: str
    start: int
    end: int
    tokens: int


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


def names(hits: Sequence[Chunk], reach: int) -> list[str]:
    """Ids of the chunks around each hit that are no hits, those of better hits first.

    Args:
        hits: Best first.
        reach: Chunks wanted before and after each.
    """
    own = {hit.chunk_id for hit in hits}
    near = (
        chunk_id(hit.document_id, hit.version, ordinal)
        for hit in hits
        for ordinal in range(max(0, hit.ordinal - reach), hit.ordinal + reach + 1)
    )
    return [name for name in dict.fromkeys(near) if name not in own]


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


def within(
    budget: int, hits: Sequence[int], spans: Sequence[range], sizes: Sequence[Mapping[int, int]]
) -> list[range]:
    """The windows cut down so that all of them together fit a prompt.

    Nearer neighbours come before farther ones and, equally near, those of better
    hits first. The hits themselves always stay.

    Args:
        budget: Tokens.
        hits: Ordinal of each hit, best first.
        spans: Its window.
        sizes: Tokens of each chunk in its window by ordinal; a chunk that is not
            there ends the window.
    """
    left = budget - sum(size.get(hit, 0) for hit, size in zip(hits, sizes, strict=True))
    lows, highs = list(hits), list(hits)
    sides = [(place, step) for place in range(len(hits)) for step in (-1, 1)]
    while sides:
        open_sides = []
        for place, step in sides:
            edges = lows if step < 0 else highs
            ordinal = edges[place] + step
            size = sizes[place].get(ordinal)
            if size is None or ordinal not in spans[place] or size > left:
                continue
            edges[place] = ordinal
            left -= size
            open_sides.append((place, step))
        sides = open_sides
    return [range(low, high + 1) for low, high in zip(lows, highs, strict=True)]


async def contexts(
    database: Database, project_id: str, hits: Sequence[Chunk], reach: int, budget: int = 0
) -> list[str]:
    """Each hit's text with its neighbours, in the order of the hits.

    Args:
        database: The pool.
        project_id: Whose documents they are.
        hits: Best first.
        reach: Chunks wanted before and after each.
        budget: Tokens that all of them may have together; 0 sets no limit.
    """
    by_document: dict[tuple[str, int], list[int]] = {}
    for hit in hits:
        by_document.setdefault((hit.document_id, hit.version), []).append(hit.ordinal)
    spans = {
        (*document, ordinal): window
        for document, ordinals in by_document.items()
        for ordinal, window in zip(ordinals, windows(ordinals, reach), strict=True)
    }
    pieces = await _read(database, project_id, spans)
    found = [
        {
            ordinal: pieces[hit.document_id, hit.version, ordinal]
            for ordinal in spans[hit.document_id, hit.version, hit.ordinal]
            if (hit.document_id, hit.version, ordinal) in pieces
        }
        | {hit.ordinal: _own(hit)}
        for hit in hits
    ]
    if budget:
        kept = within(
            budget,
            [hit.ordinal for hit in hits],
            [spans[hit.document_id, hit.version, hit.ordinal] for hit in hits],
            [{ordinal: piece.tokens for ordinal, piece in around.items()} for around in found],
        )
        found = [
            {ordinal: piece for ordinal, piece in around.items() if ordinal in window}
            for around, window in zip(found, kept, strict=True)
        ]
    return [join(list(around.values())) for around in found]


def _own(hit: Chunk) -> Piece:
    at = hit.location
    return Piece(hit.ordinal, hit.text, at.start, at.end, hit.token_count)


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
            row["ordinal"], row["body"], row["span_start"], row["span_end"], row["token_count"]
        )
        for row in rows
    }
