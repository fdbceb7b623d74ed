"""`citemesh migrate`, `citemesh reindex` and `citemesh reconcile`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshkit.cli.failure import CommandFailed
from meshkit.cli.options import AsJson, Data, Url

if TYPE_CHECKING:
    from pathlib import Path

    import citemesh
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
    from meshkit.database.pgvector import DatabaseUnfit

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
    except DatabaseUnfit as error:
        raise CommandFailed(str(error), "DATABASE_UNFIT") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        # The error's own text may repeat the URL; its kind is enough.
        raise CommandFailed(
            f"The database refused the migration ({type(error).__name__}).", "MIGRATION_FAILED"
        ) from error
    table(("schema", "revision"), revisions.items())


def reindex(
    lexical: Lexical = False,
    space: Annotated[
        str, typer.Option("--space", metavar="NAME", help="Rebuild the vector index of a space.")
    ] = "",
    memory_mb: Annotated[
        int, typer.Option("--memory-mb", min=64, help="With --space: most memory of the build.")
    ] = 1024,
    url: Url = None,
    data: Data = None,
) -> None:
    """Rebuild an index; searches go on meanwhile.

    --lexical needs a key with the scope `admin`; --space needs CITEMESH_DATABASE_URL, or the
    data of an embedded mesh that runs.
    """
    import asyncio

    from meshkit.cli.client import Target

    if lexical == bool(space):
        raise typer.BadParameter("say which index: --lexical or --space NAME", param_hint="reindex")
    if space:
        _reindex_space(space, memory_mb, data)
        return
    target = Target.find(url, data)
    chunks = asyncio.run(_rebuild_lexical(target))
    print(f"The lexical index is rebuilt: {chunks} chunks.")


def _reindex_space(space: str, memory_mb: int, data: Path | None) -> None:
    import asyncio

    import asyncpg

    from meshkit.database.dense_index import SpaceUnknown, rebuild
    from meshkit.database.migrate import MigrationBusy
    from meshkit.supervisor.layout import DataDirectory
    from meshkit.supervisor.postgres import Cluster, PostgresError

    url = os.environ.get("CITEMESH_DATABASE_URL", "")
    try:
        url = url or Cluster.attach(DataDirectory.at(data).postgres).admin_dsn
        done = asyncio.run(rebuild(url, space, most_memory=memory_mb * 1024 * 1024))
    except SpaceUnknown as error:
        raise CommandFailed(str(error), "SPACE_UNKNOWN") from error
    except PostgresError as error:
        raise CommandFailed(error.detail, error.reason) from error
    except MigrationBusy as error:
        raise CommandFailed(str(error), "MIGRATION_BUSY") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        # The error's own text may repeat the URL; its kind is enough.
        raise CommandFailed(
            f"The database refused the rebuild ({type(error).__name__}).", "REINDEX_FAILED"
        ) from error
    print(
        f"{done.index} is rebuilt over {done.rows} rows in {done.seconds:.1f} s: "
        f"{done.bytes_before / 1e6:.1f} MB before, {done.bytes_after / 1e6:.1f} MB now."
    )


def reconcile(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Mend nothing.")] = False,
    project: Annotated[
        str, typer.Option("--project", metavar="ID", help="Only this project.")
    ] = "",
    url: Url = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Compare the lexical index with the database and mend it. Needs the scope `admin`."""
    import asyncio

    from meshkit.cli.client import Target
    from meshkit.cli.output import note, print_json, table

    found = asyncio.run(_reconcile(Target.find(url, data), project, dry_run))
    if as_json:
        print_json(found)
    else:
        columns = ("project_id", "document_id", "version", "expected", "indexed")
        if found["differences"]:
            table(columns, [[row[name] for name in columns] for row in found["differences"]])
        for row in found["incomplete"]:
            note(f"{row['document_id']} of {row['project_id']} has lost chunks: reprocess it.")
        print(
            f"{found['versions']} versions compared, {found['different']} differed, "
            f"{found['repaired']} were mended."
        )
    if found["incomplete"] or found["repaired"] < found["different"]:
        raise typer.Exit(1)


@asynccontextmanager
async def _connected(target: Target) -> AsyncIterator[citemesh.Mesh]:
    """A client over gRPC, as every internal client calls; errors become sentences.

    Raises:
        CommandFailed: the key was refused, the mesh is away, or the call failed.
    """
    import grpc

    import citemesh
    from citemesh.client import TokenRefused
    from meshkit.errors import from_rpc_error

    try:
        async with citemesh.connect(target.url, target.key) as mesh:
            yield mesh
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


async def _reconcile(target: Target, project: str, dry_run: bool) -> dict[str, Any]:
    """What the comparison found, as the command prints it."""
    from citemesh.retrieval import v1 as retrieval_v1

    request = retrieval_v1.ReconcileLexicalIndexRequest(project_id=project, dry_run=dry_run)
    async with _connected(target) as mesh:
        found = await mesh.retrieval.ReconcileLexicalIndex(request, timeout=REBUILD_SECONDS)
    return {
        "versions": found.version_count,
        "different": found.difference_count,
        "repaired": found.repaired_count,
        "differences": [
            {
                "project_id": each.project_id,
                "document_id": each.document_id,
                "version": each.version,
                "expected": each.expected_count,
                "indexed": each.indexed_count,
            }
            for each in found.differences
        ],
        "incomplete": [
            {"project_id": each.project_id, "document_id": each.document_id}
            for each in found.incomplete
        ],
    }


async def _rebuild_lexical(target: Target) -> int:
    """Rebuilds and returns the number of chunks.

    Raises:
        CommandFailed: see `_connected`; or the rebuild did not end.
    """
    from rich.console import Console
    from rich.progress import Progress

    from citemesh.retrieval import v1 as retrieval_v1
    from meshkit.ids import new_request_id

    request = retrieval_v1.RebuildLexicalIndexRequest(request_id=new_request_id())
    done = 0
    async with _connected(target) as mesh:
        call = mesh.retrieval.RebuildLexicalIndex(request, timeout=REBUILD_SECONDS)
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("rebuilding", total=None)
            async for step in call:
                done = step.done_count
                progress.update(task, completed=done, total=step.total_count or None)
                if step.switched:
                    return done
    raise CommandFailed("The rebuild ended before the switch; start it again.", "REINDEX_FAILED")
