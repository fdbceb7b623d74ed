"""`citemesh migrate` and `citemesh reindex`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from meshkit.cli.failure import CommandFailed
from meshkit.cli.options import Data, Url

if TYPE_CHECKING:
    from meshkit.cli.client import Target

REBUILD_SECONDS = 3600.0
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
    """Rebuild an index from the database; searches go on meanwhile. Needs the scope `admin`."""
    import asyncio

    from meshkit.cli.client import Target

    if not lexical:
        raise typer.BadParameter("say which index: --lexical", param_hint="reindex")
    target = Target.find(url, data)
    chunks = asyncio.run(_rebuild_lexical(target))
    print(f"The lexical index is rebuilt: {chunks} chunks.")


async def _rebuild_lexical(target: Target) -> int:
    """Rebuilds over gRPC, as every internal client calls; returns the number of chunks.

    Raises:
        CommandFailed: the key was refused, or the rebuild did not end.
    """
    import grpc
    from rich.console import Console
    from rich.progress import Progress

    import citemesh
    from citemesh.client import TokenRefused
    from citemesh.retrieval import v1 as retrieval_v1
    from meshkit.errors import from_rpc_error
    from meshkit.ids import new_request_id

    request = retrieval_v1.RebuildLexicalIndexRequest(request_id=new_request_id())
    done = 0
    try:
        async with citemesh.connect(target.url, target.key) as mesh:
            call = mesh.retrieval.RebuildLexicalIndex(request, timeout=REBUILD_SECONDS)
            with Progress(console=Console(stderr=True), transient=True) as progress:
                task = progress.add_task("rebuilding", total=None)
                async for step in call:
                    done = step.done_count
                    progress.update(task, completed=done, total=step.total_count or None)
                    if step.switched:
                        return done
    except TokenRefused as error:
        raise CommandFailed(
            "The mesh refused the API key.", error.reason, error.request_id
        ) from error
    except grpc.aio.AioRpcError as error:
        typed = from_rpc_error(error)
        raise CommandFailed(
            typed.detail, typed.reason, typed.metadata.get("request_id", "")
        ) from error
    except (OSError, LookupError) as error:
        raise CommandFailed(
            f"The mesh at {target.url} cannot be reached.", "MESH_UNREACHABLE"
        ) from error
    raise CommandFailed("The rebuild ended before the switch; start it again.", "REINDEX_FAILED")
