"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Data directory of a local mesh.", show_default=".citemesh"),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="CITEMESH_URL",
        help="Address of the mesh.",
        show_default="the local mesh's, else http://127.0.0.1:8080",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Label = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", help="May be given several times."),
]


def parse_labels(values: list[str] | None) -> dict[str, str]:
    """`["a=b"]` as `{"a": "b"}`.

    Raises:
        typer.BadParameter: one is not KEY=VALUE.
    """
    labels = {}
    for value in values or []:
        key, separator, content = value.partition("=")
        if not separator or not key:
            raise typer.BadParameter(f"{value!r} is not KEY=VALUE", param_hint="--label")
        labels[key] = content
    return labels
