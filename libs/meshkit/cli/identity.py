"""`citemesh identity`: the keys that the gateway and services sign contexts with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from meshkit.cli.failure import CommandFailed
from meshkit.cli.options import AsJson, Data

app = typer.Typer(
    help="Make and rotate the keys that contexts are signed with.", no_args_is_help=True
)
T = TypeVar("T")

Issuer = Annotated[str, typer.Argument(metavar="ISSUER", help="Whose key: gateway, retrieval ...")]
Directory = Annotated[
    Path | None,
    typer.Option(
        "--dir", help="Where the key files lie.", show_default="identity/ of the data directory"
    ),
]


def _at(directory: Path | None, data: Path | None) -> Path:
    from meshkit.supervisor.layout import DataDirectory

    return directory or DataDirectory.at(data).identity


def _done(step: Callable[[], T]) -> T:
    from meshkit.key_files import KeyFileInvalid
    from meshkit.rotation import RotationRefused

    try:
        return step()
    except KeyFileInvalid as error:
        raise CommandFailed(str(error), "KEY_FILE_INVALID") from error
    except RotationRefused as error:
        raise CommandFailed(str(error), "ROTATION_REFUSED") from error


@app.command()
def create(directory: Directory = None, data: Data = None) -> None:
    """Make a key for every issuer that has none, and the keyring with all public keys."""
    from meshkit.components import ISSUERS
    from meshkit.identity import create_keyring

    at = _at(directory, data)
    _done(lambda: create_keyring(at, ISSUERS))
    print(f"{at} holds the keys of {', '.join(ISSUERS)}.")


@app.command("list")
def list_keys(directory: Directory = None, data: Data = None, as_json: AsJson = False) -> None:
    """List the keys that are trusted, and which of them sign."""
    from dataclasses import asdict

    from meshkit.cli.output import print_json, table
    from meshkit.rotation import keys

    found = _done(lambda: keys(_at(directory, data)))
    if as_json:
        print_json([asdict(line) for line in found])
        return
    rows = [(line.issuer, line.kid, "yes" if line.signs else "no") for line in found]
    table(("issuer", "key", "signs"), rows)


@app.command()
def add(issuer: Issuer, directory: Directory = None, data: Data = None) -> None:
    """First step of a rotation: make the issuer's next key, and trust it."""
    from meshkit.rotation import add as run

    kid = _done(lambda: run(_at(directory, data), issuer))
    print(f"{kid} is trusted. Switch when every process has this keyring.")


@app.command()
def switch(issuer: Issuer, directory: Directory = None, data: Data = None) -> None:
    """Second step: the issuer signs with its next key."""
    from meshkit.rotation import OVERLAP_SECONDS
    from meshkit.rotation import switch as run

    kid = _done(lambda: run(_at(directory, data), issuer))
    print(
        f"{issuer} signs with {kid}. Retire its old key after {OVERLAP_SECONDS / 60:.0f} minutes."
    )


@app.command()
def retire(
    issuer: Issuer,
    leaked: Annotated[
        bool, typer.Option("--leaked", help="At once, although calls under way may fail.")
    ] = False,
    directory: Directory = None,
    data: Data = None,
) -> None:
    """Last step: trust no key of the issuer but the one it signs with."""
    from meshkit.rotation import retire as run

    gone = _done(lambda: run(_at(directory, data), issuer, leaked=leaked))
    print(f"No longer trusted: {', '.join(gone)}." if gone else "There is no other key.")
