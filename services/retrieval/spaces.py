"""Embedding spaces as retrieval knows them: one dense table each, vectors never mixed."""

from __future__ import annotations

import asyncpg
import numpy as np

from meshkit.database.pool import Database
from meshkit.errors import InvalidInput, Precondition
from services.retrieval.passages import Vectors

LARGEST_HALF = 65504.0
"""Values beyond it do not fit a half-precision float."""


def dimensions_of(space: str) -> int:
    """Vector length that a space's name `provider/model@dimensions` announces.

    Raises:
        InvalidInput: SPACE_INVALID when the name has another form.
    """
    _, _, digits = space.rpartition("@")
    if "/" not in space or not (digits.isascii() and digits.isdigit() and len(digits) <= 4):
        raise InvalidInput(
            "SPACE_INVALID", "A space is named provider/model@dimensions, such as local/bge@384."
        )
    dimensions = int(digits)
    if not 1 <= dimensions <= 4000:
        raise InvalidInput("SPACE_INVALID", "A space has 1 to 4000 dimensions.")
    return dimensions


def check_vectors(vectors: Vectors, space: str) -> None:
    """Refuses vectors that cannot be compared inside `space`.

    Args:
        vectors: Shape (count, dimensions).
        space: Name of the space they are said to belong to.

    Raises:
        Precondition: SPACE_MISMATCH for another length.
        InvalidInput: VECTOR_INVALID for NaN, infinite, zero or too large vectors.
    """
    dimensions = dimensions_of(space)
    if vectors.ndim != 2 or vectors.shape[1] != dimensions:
        length = vectors.shape[1] if vectors.ndim == 2 else 0
        raise Precondition(
            "SPACE_MISMATCH",
            f"Space {space} holds vectors of {dimensions} values; one of {length} was given.",
            metadata={"space": space, "given": str(length)},
        )
    if not np.isfinite(vectors).all() or np.abs(vectors).max(initial=0.0) > LARGEST_HALF:
        raise InvalidInput("VECTOR_INVALID", "A vector holds NaN, an infinite or a huge value.")
    # Below the smallest half-precision float every value would be stored as zero.
    if not np.abs(vectors.astype(np.float16)).max(axis=1, initial=0.0).all():
        raise InvalidInput("VECTOR_INVALID", "A vector is all zeros; it has no direction.")


class SpaceTables:
    """Numbers of the dense tables, by space."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._numbers: dict[str, int] = {}

    async def find(self, space: str) -> int | None:
        """The number of a space's table; None when nothing was ever written to it."""
        number = self._numbers.get(space)
        if number is None:
            async with self._database.connection() as connection:
                number = await connection.fetchval(
                    "SELECT number FROM retrieval.space_table WHERE space = $1", space
                )
            if number is not None:
                self._numbers[space] = number
        return number

    async def ensure(self, space: str) -> int:
        """The number of a space's table, created if need be.

        Raises:
            Precondition: SPACE_MISMATCH when the table holds vectors of another length.
        """
        found = await self.find(space)
        if found is not None:
            return found
        try:
            async with self._database.connection() as connection:
                number: int = await connection.fetchval(
                    "SELECT retrieval.ensure_space($1, $2)", space, dimensions_of(space)
                )
        except asyncpg.PostgresError as error:
            if error.sqlstate != "CM409":
                raise
            raise Precondition(
                "SPACE_MISMATCH", f"Space {space} exists with vectors of another length."
            ) from error
        self._numbers[space] = number
        return number
