"""Which pgvector a mesh can live with."""

from __future__ import annotations

import re
from typing import Any

MINIMUM = (0, 8, 4)
"""Older ones lose rows in parallel index builds and in vacuum."""


class DatabaseUnfit(RuntimeError):
    """This Postgres cannot hold a mesh; the text says why."""


async def check_available(connection: Any) -> None:
    """Whether a new enough pgvector could be installed.

    Raises:
        DatabaseUnfit: when none is there, or only an older one.
    """
    _check(
        await connection.fetchval(
            "SELECT default_version FROM pg_available_extensions WHERE name = 'vector'"
        ),
        missing="This Postgres has no pgvector; install it ({needed} or newer).",
        remedy="install a newer one",
    )


async def check_installed(connection: Any) -> None:
    """Whether the pgvector of this database is new enough; its library may be newer.

    Raises:
        DatabaseUnfit: when it is missing or older.
    """
    _check(
        await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'vector'"),
        missing="This database has no pgvector ({needed} or newer): "
        "CREATE EXTENSION vector SCHEMA public",
        remedy="install a newer one and run ALTER EXTENSION vector UPDATE",
    )


def _check(version: str | None, *, missing: str, remedy: str) -> None:
    needed = ".".join(map(str, MINIMUM))
    if version is None:
        raise DatabaseUnfit(missing.format(needed=needed))
    if tuple(int(part) for part in re.findall(r"\d+", version)[:3]) < MINIMUM:
        raise DatabaseUnfit(
            f"pgvector {version} loses rows; {needed} or newer is needed: {remedy}."
        )
