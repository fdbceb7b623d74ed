"""`citemesh projects`: create, list, purge and export projects (scope `admin`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from meshkit.cli.options import AsJson, Data, Url

app = typer.Typer(help="Create, list, purge and export projects.", no_args_is_help=True)

MICRO = 1_000_000
Name = Annotated[str, typer.Argument(help="Name, unique among the living projects.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Project, such as prj_...")]
BudgetOption = Annotated[
    float | None, typer.Option("--budget", min=0, help="US dollars a month; none by default.")
]
Out = Annotated[Path, typer.Option("--out", help="File to write, JSON lines.")]
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
