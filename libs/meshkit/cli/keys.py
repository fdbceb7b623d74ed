"""`citemesh keys`: create, list and revoke API keys (scope `admin`)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from meshkit.cli.options import AsJson, Data, Url

app = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)


class Scope(StrEnum):
    """What a key may do."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


Name = Annotated[str, typer.Argument(help="What people call the key.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Key, as `keys list` shows it.")]
ProjectOption = Annotated[str, typer.Option("--project", help="Project; your own by default.")]
ScopeOption = Annotated[list[Scope] | None, typer.Option("--scope", help="May be repeated; read.")]
PrincipalOption = Annotated[
    list[str] | None,
    typer.Option("--principal", help="What its holder is: user:ann, group:hr. May be repeated."),
]


@app.command()
def create(
    name: Name,
    project: ProjectOption = "",
    scope: ScopeOption = None,
    principal: PrincipalOption = None,
    url: Url = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Create a key. It is shown once and stored hashed."""
    from meshkit.cli.client import Client
    from meshkit.cli.output import note, print_json

    asked: dict[str, Any] = {"name": name, "scopes": [item.value for item in scope or [Scope.READ]]}
    if project:
        asked["project_id"] = project
    if principal:
        asked["principals"] = principal
    with Client.open(url, data) as client:
        made = client.request("POST", "/v1/keys", json=asked)
    if as_json:
        print_json(made)
        return
    note(f"{made['id']} ({', '.join(made['scopes'])}); the key is shown this once:")
    print(made["key"])


@app.command("list")
def list_keys(
    project: ProjectOption = "", url: Url = None, data: Data = None, as_json: AsJson = False
) -> None:
    """List keys; the keys themselves are not known to anyone."""
    from meshkit.cli.client import Client
    from meshkit.cli.output import print_json, table

    params = {"project_id": project} if project else {}
    with Client.open(url, data) as client:
        found = list(client.pages("/v1/keys", "keys", params))
    if as_json:
        print_json(found)
        return
    rows = [
        (
            key["id"],
            key["name"],
            key["project_id"],
            ", ".join(key["scopes"]),
            ", ".join(key["principals"]),
            key.get("last_used_at"),
            key.get("revoked_at"),
        )
        for key in found
    ]
    table(("id", "name", "project", "scopes", "principals", "last used", "revoked"), rows)


@app.command()
def revoke(key: Id, url: Url = None, data: Data = None) -> None:
    """Revoke a key: it stops working at once."""
    from meshkit.cli.client import Client

    with Client.open(url, data) as client:
        client.request("DELETE", f"/v1/keys/{key}")
    print(f"{key} is revoked.")
