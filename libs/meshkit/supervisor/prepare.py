"""Prepares the database: `python -m meshkit.supervisor.prepare`.

A process of its own, because the libraries of migrations would otherwise stay in the supervisor's
memory for as long as the mesh is up. Reads from the environment:

- `CITEMESH_ADMIN_DATABASE_URL`: a role that may create roles and extensions.
- `CITEMESH_ROLE_PASSWORDS`: JSON, password of each runtime role.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

import asyncpg

from meshkit.database.bootstrap import bootstrap
from meshkit.database.migrate import MigrationBusy, migrate
from meshkit.database.pgvector import DatabaseUnfit
from meshkit.logging import configure, logger


async def prepare(admin_dsn: str, passwords: dict[str, str]) -> dict[str, int]:
    """Roles, schemas and tables as this code needs them; returns the revision of each schema."""
    await bootstrap(admin_dsn, passwords)
    return await migrate(admin_dsn)


def main() -> None:
    """Exits with 1 and one sentence when the database cannot be prepared."""
    configure("prepare", os.environ.get("CITEMESH_LOG_LEVEL", "INFO"), "json")
    admin_dsn = os.environ["CITEMESH_ADMIN_DATABASE_URL"]
    passwords: dict[str, str] = json.loads(os.environ["CITEMESH_ROLE_PASSWORDS"])
    try:
        revisions = asyncio.run(prepare(admin_dsn, passwords))
    except (DatabaseUnfit, MigrationBusy) as error:
        sys.exit(str(error))
    except (
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.InvalidCatalogNameError,
    ) as error:
        sys.exit(f"The database refuses the connection: {error}.")
    except OSError as error:
        sys.exit(f"The database cannot be reached: {error}.")
    logger(__name__).info("database prepared", **revisions)


if __name__ == "__main__":
    main()
