"""Embedding spaces as retrieval knows them: one dense table each, vectors never mixed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import asyncpg
import numpy as np

from meshkit.database.pool import Database
from meshkit.errors import InvalidInput, Precondition
from services.retrieval.passages import Vectors

LARGEST_HALF = 65504.0
"""Values beyond it do not fit a half-precision float."""
REMEMBERED_SECONDS = 5.0
"""How long a process may not know that a space was switched, retired or dropped."""


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


class Duty(StrEnum):
    """What is done about a space at every activation; see migration 0010."""

    UNKNOWN = "unknown"
    """Nothing; it is searched: nobody has said yet which space is the active one."""
    NONE = "none"
    """Nothing, and it is not searched: retired."""
    FOLLOWED = "followed"
    """What is missing is noted and filled soon: a space that is built or stands by."""
    REQUIRED = "required"
    """A version goes live only when all its vectors are here: the active space."""


@dataclass(frozen=True, slots=True)
class SpaceTable:
    """The dense table of a space."""

    number: int
    version: str
    """Fingerprint of the model that filled it; empty when nobody has said."""
    duty: Duty


@dataclass(frozen=True, slots=True)
class Place:
    """Where a query's vector is compared."""

    number: int
    standby: bool
    """Whether it is not the active space but one that stands in."""


class SpaceTables:
    """The dense tables by space, remembered for a few seconds.

    Args:
        database: The pool.
        clock: Seconds that only grow.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[str, tuple[float, SpaceTable]] = {}

    def forget(self, space: str) -> None:
        """Looks at Postgres again at the next use."""
        self._known.pop(space, None)

    async def find(self, space: str) -> SpaceTable | None:
        """A space's table; None when there is none."""
        at, table = self._known.get(space, (0.0, None))
        if table is None or self._clock() - at > REMEMBERED_SECONDS:
            table = await self._read(space)
        return table

    async def place(self, space: str, version: str, project_id: str) -> Place | None:
        """Where vectors of a space are compared for a project.

        None when nowhere: nothing was ever written there, it is retired, or it is not
        the active space and lacks some of the project's vectors.

        Raises:
            Precondition: SPACE_MISMATCH: another model filled it.
        """
        table = await self.find(space)
        if table is None:
            return None
        check_version(space, filled_by=table.version, given=version)
        if table.duty is Duty.FOLLOWED:
            # It may have become the active one; and only now is known what it lacks.
            async with self._database.project(project_id) as connection:
                row = await connection.fetchrow(
                    "SELECT s.duty, EXISTS (SELECT FROM retrieval.space_work w "
                    "WHERE w.number = s.number AND w.project_id = $2) AS lacking "
                    "FROM retrieval.space_table s WHERE s.number = $1",
                    table.number,
                    project_id,
                )
            if row is None or (row["duty"] != Duty.REQUIRED and row["lacking"]):
                return None
            return Place(table.number, standby=row["duty"] == Duty.FOLLOWED)
        return None if table.duty is Duty.NONE else Place(table.number, standby=False)

    async def ensure(self, space: str, version: str = "") -> int:
        """The number of the table that vectors of a space are written to.

        Args:
            space: Name.
            version: Fingerprint of the model its vectors come from, if known.

        Raises:
            Precondition: SPACE_MISMATCH, or SPACE_RETIRED.
        """
        table = await self.open(space, version)
        if table.duty is Duty.NONE:
            raise Precondition("SPACE_RETIRED", f"Space {space} is retired; nothing is written.")
        return table.number

    async def open(self, space: str, version: str) -> SpaceTable:
        """A space's table, created if need be.

        Args:
            space: Name.
            version: Fingerprint of the model that fills it; empty when it is not known.

        Raises:
            Precondition: SPACE_MISMATCH: it holds vectors of another length or model.
        """
        found = await self.find(space)
        if found is None or (version and not found.version):
            try:
                async with self._database.connection() as connection:
                    await connection.fetchval(
                        "SELECT retrieval.ensure_space($1, $2, $3)",
                        space,
                        dimensions_of(space),
                        version,
                    )
            except asyncpg.PostgresError as error:
                if error.sqlstate != "CM409":
                    raise
                raise Precondition(
                    "SPACE_MISMATCH",
                    f"Space {space} exists with vectors of another length or model.",
                ) from error
            found = await self._read(space)
            if found is None:
                raise Precondition("SPACE_RETIRED", f"Space {space} was dropped.")
        check_version(space, filled_by=found.version, given=version)
        return found

    async def _read(self, space: str) -> SpaceTable | None:
        asked = self._clock()
        async with self._database.connection() as connection:
            row = await connection.fetchrow(
                "SELECT number, version, duty FROM retrieval.space_table WHERE space = $1", space
            )
        if row is None:
            self.forget(space)
            return None
        table = SpaceTable(row["number"], row["version"], Duty(row["duty"]))
        self._known[space] = asked, table
        return table


def check_version(space: str, *, filled_by: str, given: str) -> None:
    """Refuses vectors of another model than the one that filled a space.

    Raises:
        Precondition: SPACE_MISMATCH, naming both sides.
    """
    if filled_by and given and filled_by != given:
        raise Precondition(
            "SPACE_MISMATCH",
            f"Space {space} was filled by version {filled_by}; a vector of version {given} was "
            "given. Vectors of the two cannot be compared.",
            metadata={"space": space, "filled_by": filled_by, "given": given},
        )
