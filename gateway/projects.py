"""Projects: the rows, and what a project may spend."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import asyncpg

from meshkit.database.pool import Database
from meshkit.errors import Conflict, NotFound
from meshkit.ids import new_id


@dataclass(frozen=True, slots=True)
class Project:
    """A project; `deleted_at` is set while its purge is under way."""

    id: str
    name: str
    settings: dict[str, Any]
    created_at: datetime
    deleted_at: datetime | None


@dataclass(frozen=True, slots=True)
class BudgetState:
    """Money of the running calendar month (UTC), in millionths of a US dollar."""

    month: date
    limit_micro_usd: int | None
    spent_micro_usd: int
    reserved_micro_usd: int

    @property
    def left_micro_usd(self) -> int | None:
        """What may still be reserved; None without a limit."""
        if self.limit_micro_usd is None:
            return None
        return max(0, self.limit_micro_usd - self.spent_micro_usd - self.reserved_micro_usd)


@dataclass(frozen=True, slots=True)
class DailyUsage:
    """What one model did for one stage on one day (UTC)."""

    day: date
    stage: str
    provider: str
    model: str
    requests: int
    input_tokens: int
    output_tokens: int
    cost_micro_usd: int


class Projects:
    """The rows of `gateway.project` and the project's side of schema `usage`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, name: str, settings: dict[str, Any]) -> Project:
        """A new project.

        Raises:
            Conflict: PROJECT_NAME_TAKEN.
        """
        project_id = new_id("prj")
        try:
            async with self._database.project(project_id) as connection:
                row = await connection.fetchrow(
                    "INSERT INTO gateway.project (id, name, settings) VALUES ($1, $2, $3::jsonb)"
                    " RETURNING *",
                    project_id,
                    name,
                    json.dumps(settings),
                )
        except asyncpg.UniqueViolationError:
            raise Conflict("PROJECT_NAME_TAKEN", f"There is a project '{name}' already.") from None
        return _project(row)

    async def get(self, project_id: str) -> Project:
        """A project by its id, also one whose purge is under way.

        Raises:
            NotFound: PROJECT_NOT_FOUND.
        """
        async with self._database.project(project_id) as connection:
            row = await connection.fetchrow(
                "SELECT * FROM gateway.project WHERE id = $1", project_id
            )
        if row is None:
            raise _missing(project_id)
        return _project(row)

    async def named(self, name: str) -> Project | None:
        """The living project of that name."""
        async with self._database.connection() as connection:
            found = await connection.fetchval("SELECT gateway.project_named($1)", name)
        return await self.get(found) if found is not None else None

    async def page(self, after: str, size: int) -> list[Project]:
        """Up to `size` projects with ids after `after`, oldest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                "SELECT * FROM gateway.list_projects($1, $2)", after, size
            )
        return [_project(row) for row in rows]

    async def change(
        self, project_id: str, *, name: str | None, settings: dict[str, Any] | None
    ) -> Project:
        """Changes what is given of a living project.

        Raises:
            NotFound: PROJECT_NOT_FOUND.
            Conflict: PROJECT_NAME_TAKEN.
        """
        try:
            async with self._database.project(project_id) as connection:
                row = await connection.fetchrow(
                    """
                    UPDATE gateway.project SET
                        name = coalesce($2, name), settings = coalesce($3::jsonb, settings)
                    WHERE id = $1 AND deleted_at IS NULL RETURNING *
                    """,
                    project_id,
                    name,
                    None if settings is None else json.dumps(settings),
                )
        except asyncpg.UniqueViolationError:
            raise Conflict("PROJECT_NAME_TAKEN", f"There is a project '{name}' already.") from None
        if row is None:
            raise _missing(project_id)
        return _project(row)

    async def close(self, project_id: str) -> Project:
        """Begins a purge: from now on none of the project's keys works.

        Raises:
            NotFound: PROJECT_NOT_FOUND.
        """
        async with self._database.project(project_id) as connection:
            row = await connection.fetchrow(
                """
                UPDATE gateway.project SET deleted_at = coalesce(deleted_at, now())
                WHERE id = $1 RETURNING *
                """,
                project_id,
            )
        if row is None:
            raise _missing(project_id)
        return _project(row)

    async def remove(self, project_id: str) -> tuple[int, int]:
        """Ends a purge: removes usage, keys and the project; counts ledger lines and keys."""
        async with self._database.project(project_id) as connection:
            entries = await connection.fetchval("SELECT usage.purge($1)", project_id)
            keys = await connection.fetch("DELETE FROM gateway.api_key RETURNING id")
            await connection.execute("DELETE FROM gateway.project WHERE id = $1", project_id)
        return int(entries), len(keys)

    async def set_budget(self, project_id: str, monthly_micro_usd: int | None) -> None:
        """Limits what a project may spend a calendar month; None lifts the limit."""
        async with self._database.connection() as connection:
            await connection.execute(
                "SELECT usage.set_budget($1, $2)", project_id, monthly_micro_usd
            )

    async def budget(self, project_id: str) -> BudgetState:
        """Limit and spending of the running month."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow("SELECT * FROM usage.budget_of($1)", project_id)
        assert row is not None, "usage.budget_of returns one row for every project"
        return BudgetState(**dict(row))

    async def usage(self, project_id: str, first: date, last: date) -> list[DailyUsage]:
        """Usage of the days from `first` to `last`, latest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                "SELECT * FROM usage.daily_of($1, $2, $3)", project_id, first, last
            )
        return [DailyUsage(**dict(row)) for row in rows]

    async def sweep(self) -> int:
        """Releases reservations of callers that died; returns how many."""
        async with self._database.connection() as connection:
            return int(await connection.fetchval("SELECT usage.sweep()"))


def _missing(project_id: str) -> NotFound:
    return NotFound("PROJECT_NOT_FOUND", f"There is no project {project_id}.")


def _project(row: Any) -> Project:
    return Project(
        id=row["id"],
        name=row["name"],
        settings=json.loads(row["settings"]),
        created_at=row["created_at"],
        deleted_at=row["deleted_at"],
    )
