"""The application `citemesh`: its commands and how it ends.

Nothing heavy is imported here or at the top of a command's module: `citemesh --help` must answer
at once. Exit codes: 0 done, 1 failed, 2 used wrongly.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from meshkit.cli import (
    ask,
    capacity,
    documents,
    evaluate,
    identity,
    ingest,
    keys,
    load,
    local,
    maintenance,
    projects,
    providers,
    search,
)
from meshkit.cli.failure import CommandFailed

app = typer.Typer(
    name="citemesh",
    help="Answers questions from your documents, with citations that were checked.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(local.up)
app.command()(local.down)
app.command()(local.status)
app.command()(ingest.ingest)
app.command()(ask.ask)
app.command()(search.search)
app.add_typer(documents.app, name="documents")
app.command("eval")(evaluate.evaluate)
app.add_typer(projects.app, name="projects")
app.add_typer(keys.app, name="keys")
app.add_typer(identity.app, name="identity")
app.add_typer(providers.app, name="providers")
app.command()(capacity.capacity)
app.command()(load.load)
app.command()(maintenance.migrate)
app.command()(maintenance.reindex)
app.command()(maintenance.reconcile)


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"citemesh {version('citemesh')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Version.")
    ] = False,
) -> None:
    """Answers questions from your documents, with citations that were checked."""


def main() -> None:
    """Runs the command line and ends the process."""
    try:
        app()
    except CommandFailed as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        # The reader (`| head`) has seen enough.
        sys.stderr.close()
        sys.exit(0)
