"""`citemesh projects`: create, list, set up, purge and export projects (scope `admin`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from meshkit.cli.options import AsJson, Data, Url

app = typer.Typer(help="Create, list, set up, purge and export projects.", no_args_is_help=True)

MICRO = 1_000_000
Name = Annotated[str, typer.Argument(help="Name, unique among the living projects.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Project, such as prj_...")]
BudgetOption = Annotated[
    float | None, typer.Option("--budget", min=0, help="US dollars a month; none by default.")
]
Out = Annotated[Path, typer.Option("--out", help="File to write, JSON lines.")]
ChunkTokens = Annotated[int | None, typer.Option(min=8, max=500, help="Tokens of a chunk at most.")]
ChunkOverlap = Annotated[
    int | None, typer.Option(min=0, max=250, help="Tokens repeated of the chunk before.")
]
ProjectFusion = Annotated[
    str | None, typer.Option(help="rrf or min_max: how two rankings become one.")
]
DenseWeight = Annotated[
    float | None, typer.Option(min=0, max=100, help="Weight of the ranking by vectors.")
]
LexicalWeight = Annotated[
    float | None, typer.Option(min=0, max=100, help="Weight of the ranking by words.")
]
Reset = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Back to the service's default; repeatable."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command()
def create(
    name: Name,
    budget: BudgetOption = None,
    url: Url = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Create a project."""
    from meshkit.cli.client import Client
    from meshkit.cli.output import print_json

    asked: dict[str, Any] = {"name": name}
    if budget is not None:
        asked["budget_micro_usd"] = round(budget * MICRO)
    with Client.open(url, data) as client:
        made = client.request("POST", "/v1/projects", json=asked)
    if as_json:
        print_json(made)
    else:
        print(f"{made['id']} is the project {made['name']!r}.")
        print(f"`citemesh keys create NAME --project {made['id']}` makes a key for it.")


@app.command("list")
def list_projects(url: Url = None, data: Data = None, as_json: AsJson = False) -> None:
    """List projects."""
    from meshkit.cli.client import Client
    from meshkit.cli.output import print_json, table

    with Client.open(url, data) as client:
        found = list(client.pages("/v1/projects", "projects"))
    if as_json:
        print_json(found)
        return
    rows = [
        (project["id"], project["name"], project.get("state"), project.get("created_at"))
        for project in found
    ]
    table(("id", "name", "state", "created"), rows)


@app.command("set")
def set_choices(
    project: Id,
    chunk_tokens: ChunkTokens = None,
    chunk_overlap: ChunkOverlap = None,
    fusion: ProjectFusion = None,
    dense_weight: DenseWeight = None,
    lexical_weight: LexicalWeight = None,
    reset: Reset = None,
    url: Url = None,
    data: Data = None,
) -> None:
    """Change what a project decides for itself, and print it; without options only print it.

    Chunks change with the next upload or reprocessing of a document.
    """
    from meshkit.cli.client import Client
    from meshkit.cli.output import print_json

    given = {
        "chunk_tokens": chunk_tokens,
        "chunk_overlap_tokens": chunk_overlap,
        "fusion": fusion,
        "dense_weight": dense_weight,
        "lexical_weight": lexical_weight,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    unknown = set(reset or ()) - set(given)
    if unknown:
        raise typer.BadParameter(f"one of {', '.join(given)}", param_hint="--reset")
    path = f"/v1/projects/{project}"
    with Client.open(url, data) as client:
        found = client.request("GET", path)
        if chosen or reset:
            kept = {k: v for k, v in found["settings"].items() if k not in (reset or ())}
            found = client.request("PATCH", path, json={"settings": kept | chosen})
    print_json(found["settings"])


@app.command()
def purge(
    project: Id, yes: Yes = False, url: Url = None, data: Data = None, as_json: AsJson = False
) -> None:
    """Delete a project with everything in it, and print the receipt."""
    from meshkit.cli.client import Client
    from meshkit.cli.output import print_json

    if not yes:
        typer.confirm(
            f"Delete {project} with all documents, answers and keys, for good?",
            abort=True,
            err=True,
        )
    with Client.open(url, data) as client:
        receipt = client.request("DELETE", f"/v1/projects/{project}")
    if as_json or receipt:
        print_json(receipt)
    else:
        print(f"{project} is purged.")


@app.command()
def export(project: Id, out: Out, url: Url = None, data: Data = None) -> None:
    """Write everything of a project to a file."""
    from meshkit.cli.client import Client

    partial = out.with_name(out.name + ".partial")
    lines = 0
    with (
        Client.open(url, data) as client,
        client.download(f"/v1/projects/{project}/export") as chunks,
        partial.open("wb") as file,
    ):
        for chunk in chunks:
            lines += chunk.count(b"\n")
            file.write(chunk)
    partial.replace(out)
    print(f"{lines} lines written to {out}.")
