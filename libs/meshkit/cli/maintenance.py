"""`citemesh migrate` and `citemesh reindex`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from meshkit.cli.failure import CommandFailed
from meshkit.cli.options import Data, Url

Lexical = Annotated[bool, typer.Option("--lexical", help="Rebuild the lexical index.")]


def migrate() -> None:
    """Bring the database named by CITEMESH_DATABASE_URL to this version (`up` does it itself)."""
    import asyncio

    import asyncpg

    from meshkit.cli.output import table
    from meshkit.database.migrate import MigrationBusy
    from meshkit.database.migrate import migrate as run

    url = os.environ.get("CITEMESH_DATABASE_URL", "")
    if not url:
        raise typer.BadParameter(
            "set it to the URL of a role that may act as every schema's owner",
            param_hint="CITEMESH_DATABASE_URL",
        )
    try:
        revisions = asyncio.run(run(url))
    except MigrationBusy as error:
        raise CommandFailed(str(error), "MIGRATION_BUSY") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        # The error's own text may repeat the URL; its kind is enough.
        raise CommandFailed(
            f"The database refused the migration ({type(error).__name__}).", "MIGRATION_FAILED"
        ) from error
    table(("schema", "revision"), revisions.items())


def reindex(lexical: Lexical = False, url: Url = None, data: Data = None) -> None:
    """Rebuild an index from the database; searches go on meanwhile."""
    from meshkit.cli.client import Client

    if not lexical:
        raise typer.BadParameter("say which index: --lexical", param_hint="reindex")
    with Client.open(url, data) as client:
        done = client.request("POST", "/v1/indexes/lexical:rebuild")
    print(f"The lexical index is rebuilt: {done.get('chunk_count', 0)} chunks.")
