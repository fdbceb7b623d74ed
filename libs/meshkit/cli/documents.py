"""`citemesh documents`: what is in the mesh."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from meshkit.cli.options import AsJson, Data, Label, Url, parse_labels

app = typer.Typer(help="List, show, delete and reprocess documents.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="Document, such as doc_...")]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Documents, such as doc_...")]


class State(StrEnum):
    """Where the processing of a document stands."""

    QUEUED = "queued"
    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"
    QUARANTINED = "quarantined"


StateOption = Annotated[State | None, typer.Option("--state", help="Only those in this state.")]


@app.command("list")
def list_documents(
    state: StateOption = None,
    label: Label = None,
    url: Url = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """List documents, newest first."""
    from meshkit.cli.client import Client
    from meshkit.cli.output import print_json, shorten, table

    params: dict[str, Any] = {"page_size": 200}
    if state:
        params["state"] = state.value
    if labels := parse_labels(label):
        params["label"] = [f"{key}={value}" for key, value in labels.items()]
    with Client.open(url, data) as client:
        found = list(client.pages("/v1/documents", "documents", params))
    if as_json:
        print_json(found)
        return
    rows = [
        (
            document["id"],
            document["state"],
            shorten(document["title"], 60),
            document["page_count"] or None,
            document["chunk_count"] or None,
            document["version"],
            (document.get("error") or {}).get("reason"),
        )
        for document in found
    ]
    table(("id", "state", "title", "pages", "chunks", "version", "reason"), rows)
    print(f"{len(found)} documents")


@app.command()
def show(document: Id, url: Url = None, data: Data = None, as_json: AsJson = False) -> None:
    """Show one document with its state, and why it failed if it did."""
    from meshkit.cli.client import Client
    from meshkit.cli.output import print_json, table

    with Client.open(url, data) as client:
        found = client.request("GET", f"/v1/documents/{document}")
    if as_json:
        print_json(found)
        return
    table(("field", "value"), [(name, _shown(value)) for name, value in found.items()])


def _shown(value: object) -> object:
    if isinstance(value, dict):
        return ", ".join(f"{key}={content}" for key, content in value.items())
    if isinstance(value, list):
        return "; ".join(map(str, value))
    return value


@app.command()
def delete(documents: Ids, url: Url = None, data: Data = None) -> None:
    """Delete documents: when this returns no answer uses them."""
    from meshkit.cli.client import Client

    with Client.open(url, data) as client:
        for document in documents:
            client.request("DELETE", f"/v1/documents/{document}")
            print(f"{document} is deleted.")


@app.command()
def reprocess(documents: Ids, url: Url = None, data: Data = None) -> None:
    """Process the stored files anew; the present versions answer until the new ones are ready."""
    from meshkit.cli.client import Client

    with Client.open(url, data) as client:
        for document in documents:
            found = client.request("POST", f"/v1/documents/{document}:reprocess")
            print(f"{found.get('id', document)} is {found.get('state', 'queued')}.")
