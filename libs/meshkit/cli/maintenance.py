"""`citemesh migrate`, `citemesh reindex` and `citemesh reconcile`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshkit.cli.failure import CommandFailed
from meshkit.cli.options import AsJson, Data, Url
from meshkit.cli.output import note
from meshkit.cli.rpc import connected

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
        str,
        typer.Option("--space", metavar="NAME", help="Fill this embedding space, or resume."),
    ] = "",
    switch: Annotated[
        bool, typer.Option("--switch", help="Make the space the active one once it is filled.")
    ] = False,
    pause: Annotated[
        bool, typer.Option("--pause", help="Stop filling it; --space NAME goes on.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Show how far it is filled; without --space, all.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Show what filling it would cost.")
    ] = False,
    drop: Annotated[
        bool, typer.Option("--drop", help="Retire it and drop its vectors. Not the active one.")
    ] = False,
    index: Annotated[
        bool, typer.Option("--index", help="Only rebuild its vector index, from its vectors.")
    ] = False,
    memory_mb: Annotated[
        int, typer.Option("--memory-mb", min=64, help="With --index: most memory of the build.")
    ] = 1024,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Whether to stay until it is filled.")
    ] = True,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
    url: Url = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild an index, or fill an embedding space; searches go on meanwhile.

    Needs a key with the scope `admin`; --index needs CITEMESH_DATABASE_URL, or the data of an
    embedded mesh that runs.
    """
    import asyncio

    from meshkit.cli import spaces
    from meshkit.cli.client import Target

    if lexical == bool(space or status):
        raise typer.BadParameter("say which index: --lexical or --space NAME", param_hint="reindex")
    steps = {"--switch": switch, "--pause": pause, "--status": status, "--estimate": estimate}
    asked = [name for name, given in (steps | {"--drop": drop, "--index": index}).items() if given]
    if len(asked) > 1 or (lexical and asked):
        raise typer.BadParameter(f"{', '.join(asked)} do not go together", param_hint="reindex")
    if index:
        spaces.rebuild_index(space, memory_mb, data)
        return
    target = Target.find(url, data)
    if lexical:
        chunks = asyncio.run(_rebuild_lexical(target))
        print(f"The lexical index is rebuilt: {chunks} chunks.")
    elif status or estimate:
        spaces.show(target, space, estimate=estimate, as_json=as_json)
    elif pause:
        spaces.pause(target, space)
    elif drop:
        spaces.drop(target, space, sure=yes)
    elif spaces.is_active(target, space) and not switch:
        note(f"{space} is the active space, which is filled: rebuilding its index (--index).")
        spaces.rebuild_index(space, memory_mb, data)
    else:
        spaces.fill(target, space, switch=switch, wait=wait, sure=yes)


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
    from meshkit.cli.output import print_json, table

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


async def _reconcile(target: Target, project: str, dry_run: bool) -> dict[str, Any]:
    """What the comparison found, as the command prints it."""
    from citemesh.retrieval import v1 as retrieval_v1

    request = retrieval_v1.ReconcileLexicalIndexRequest(project_id=project, dry_run=dry_run)
    async with connected(target) as mesh:
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
        CommandFailed: see `connected`; or the rebuild did not end.
    """
    from rich.console import Console
    from rich.progress import Progress

    from citemesh.retrieval import v1 as retrieval_v1
    from meshkit.ids import new_request_id

    request = retrieval_v1.RebuildLexicalIndexRequest(request_id=new_request_id())
    done = 0
    async with connected(target) as mesh:
        call = mesh.retrieval.RebuildLexicalIndex(request, timeout=REBUILD_SECONDS)
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("rebuilding", total=None)
            async for step in call:
                done = step.done_count
                progress.update(task, completed=done, total=step.total_count or None)
                if step.switched:
                    return done
    raise CommandFailed("The rebuild ended before the switch; start it again.", "REINDEX_FAILED")
