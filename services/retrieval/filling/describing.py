"""How far spaces are filled, and what filling the rest would take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meshkit.database.pool import Database
from services.retrieval.filling.registry import KnownSpace, SpaceState
from services.retrieval.spaces import Duty, dimensions_of

COUNTING_SECONDS = 1800.0
"""Longest look at every chunk of the corpus."""
ROW_BYTES, NEIGHBOUR_BYTES = 190, 400
"""Of a vector's row without its values: keys and their index; of its place in the graph. Measured
over 10,000 rows of 384 dimensions: 2,125 bytes each, all told."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What filling the rest of a space takes."""

    tokens: int
    micro_usd: int
    bytes: int
    truncated: int
    """Chunks longer than the model reads."""


@dataclass(frozen=True, slots=True)
class IndexedSpace:
    """How far a space is filled, over all projects."""

    name: str
    state: SpaceState
    duty: Duty
    paused: bool
    live: int
    """Live chunks of the corpus."""
    pending: int
    """Of those, the ones without a vector here."""
    stuck: int
    """Of those, the ones whose own error keeps them waiting."""
    trouble: str
    bytes: int
    estimate: Estimate | None = None

    @property
    def followed(self) -> bool:
        """Whether what is missing is filled in."""
        return self.duty in (Duty.FOLLOWED, Duty.REQUIRED)


async def describe(
    database: Database, known: Sequence[KnownSpace], *, estimate: bool = False
) -> list[IndexedSpace]:
    """Spaces as they are now; with `estimate`, what filling the rest of them takes."""
    async with database.connection() as connection:
        live: int = await connection.fetchval("SELECT retrieval.live_chunks()")
        rows = await connection.fetch(
            "SELECT s.space, s.number, s.duty, s.paused, s.trouble, b.pending, b.stuck, "
            "b.reason, "
            "pg_total_relation_size(to_regclass(format('retrieval.dense_%s', s.number))) "
            "AS bytes FROM retrieval.space_table s "
            "JOIN retrieval.space_backlog() b USING (number)"
        )
    ours = {row["space"]: row for row in rows}
    found = []
    for space in known:
        row = ours.get(space.name)
        duty = Duty(row["duty"]) if row else Duty.UNKNOWN
        filling = row is not None and duty in (Duty.FOLLOWED, Duty.REQUIRED)
        found.append(
            IndexedSpace(
                name=space.name,
                state=space.state,
                duty=duty,
                paused=bool(row and row["paused"]),
                live=live,
                pending=min(row["pending"], live) if row and filling else live,
                stuck=row["stuck"] if row else 0,
                trouble=(row["trouble"] or row["reason"] or "") if row else "",
                bytes=(row["bytes"] or 0) if row else 0,
                estimate=await _estimate(database, space, row["number"] if row else 0)
                if estimate
                else None,
            )
        )
    return found


async def _estimate(database: Database, space: KnownSpace, number: int) -> Estimate:
    async with database.connection() as connection:
        row = await connection.fetchrow(
            "SELECT * FROM retrieval.measure_space($1, $2)",
            number,
            # What a tokenizer puts around a text counts too.
            max(space.tokens_per_text - 2, 0) or 2**31 - 1,
            timeout=COUNTING_SECONDS,
        )
    assert row is not None
    return Estimate(
        tokens=row["tokens"],
        micro_usd=-(-row["tokens"] * space.micro_usd_per_million_tokens // 1_000_000),
        bytes=row["chunks"] * estimated_row_bytes(dimensions_of(space.name)),
        truncated=row["too_long"],
    )


def estimated_row_bytes(dimensions: int) -> int:
    """Bytes on disk that a vector takes: its row, and its copy in the graph."""
    return 4 * dimensions + ROW_BYTES + NEIGHBOUR_BYTES
