"""Which revision a schema has and which this code needs; light enough for every service.

The highest number among a schema's migration files is what the code needs.
Services compare it with the number in the database and wait until it is reached;
a newer database serves older code.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import asyncpg

from meshkit.components import Schema


def directory(schema: Schema) -> Path:
    """Folder of a schema's migrations."""
    spec = find_spec(schema.migrations)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{schema.migrations} is no package of migrations.")
    return Path(next(iter(spec.submodule_search_locations)))


def head(schema: Schema) -> int:
    """The revision this code needs: the highest number among the files."""
    names = (path.name for path in (directory(schema) / "versions").glob("*.py"))
    return max((int(found[1]) for name in names if (found := re.match(r"(\d+)_", name))), default=0)


async def revision(connection: asyncpg.Connection[asyncpg.Record], schema: str) -> int:
    """The revision the database has; 0 when it has none."""
    try:
        found = await connection.fetchval(
            f"SELECT max(version_num) FROM {schema}.alembic_version"  # noqa: S608  # our own names
        )
    except (
        asyncpg.UndefinedTableError,
        asyncpg.InvalidSchemaNameError,
        asyncpg.InsufficientPrivilegeError,
    ):
        return 0
    return int(found or 0)
