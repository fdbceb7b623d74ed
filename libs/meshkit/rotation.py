"""Rotating the keys that contexts are signed with, on a directory of key files.

    add       a second key of an issuer: its public half joins the keyring
    switch    the issuer signs with it from now on
    retire    only the key it signs with is trusted

Processes read the files again by themselves (`meshkit.key_files`). Between the steps the
new files have to reach every process; before `retire`, what the old key signed must have ended.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshkit.identity import LEEWAY_SECONDS, REQUEST_SECONDS
from meshkit.key_files import (
    KEYRING,
    LOOK_SECONDS,
    PRIVATE,
    PUBLIC,
    KeyFileInvalid,
    new_key,
    read_file,
    write_file,
)

OVERLAP_SECONDS = REQUEST_SECONDS + LEEWAY_SECONDS + LOOK_SECONDS
"""After this time nothing is in use that the former key had signed: a context is signed for
`REQUEST_SECONDS` at most."""


class RotationRefused(Exception):
    """The step does not fit the state of the files; the text says what does."""


@dataclass(frozen=True, slots=True)
class KeyLine:
    """A key that is trusted."""

    issuer: str
    kid: str
    signs: bool
    """Whether its issuer signs with it."""


def _signing(directory: Path, issuer: str) -> Path:
    return directory / f"{issuer}.key"


def _next(directory: Path, issuer: str) -> Path:
    return directory / f"{issuer}.next.key"


def _ring(directory: Path) -> list[dict[str, Any]]:
    keys: list[dict[str, Any]] = read_file(directory / KEYRING).get("keys", [])
    return keys


def keys(directory: Path) -> list[KeyLine]:
    """Every key of the keyring.

    Raises:
        KeyFileInvalid: no keyring lies there.
    """
    ring = _ring(directory)
    issuers = {entry["issuer"] for entry in ring}
    present = [path for issuer in issuers if (path := _signing(directory, issuer)).exists()]
    used = {read_file(path)["kid"] for path in present}
    return [KeyLine(entry["issuer"], entry["kid"], entry["kid"] in used) for entry in ring]


def add(directory: Path, issuer: str) -> str:
    """Makes the issuer's next key and trusts it; returns its name.

    Raises:
        RotationRefused: there is no such issuer, or a next key already.
    """
    ring = _ring(directory)
    if issuer not in {entry["issuer"] for entry in ring}:
        raise RotationRefused(f"{directory} holds no key of {issuer}.")
    path = _next(directory, issuer)
    if path.exists():
        raise RotationRefused(f"{path} exists: switch to it, or remove it first.")
    private, public = new_key(issuer)
    write_file(path, private, PRIVATE)
    write_file(directory / KEYRING, {"keys": [*ring, public]}, PUBLIC)
    return str(public["kid"])


def switch(directory: Path, issuer: str) -> str:
    """Puts the issuer's next key in the place of its present one; returns its name.

    Raises:
        RotationRefused: there is no next key, or the keyring does not have it.
    """
    path = _next(directory, issuer)
    if not path.exists():
        raise RotationRefused(f"{path} does not exist: add a key first.")
    kid = str(read_file(path)["kid"])
    if kid not in {entry["kid"] for entry in _ring(directory)}:
        raise RotationRefused(f"{directory / KEYRING} does not hold {kid}: add a key first.")
    # When a key began to sign is told by its file; its content is older.
    path.touch()
    path.replace(_signing(directory, issuer))
    return kid


def retire(directory: Path, issuer: str, *, leaked: bool = False) -> list[str]:
    """Trusts no key of the issuer but the one it signs with; returns the names of the others.

    Args:
        directory: Where the key files lie.
        issuer: Whose old keys go.
        leaked: Do not wait for what the old key signed: it may be anybody's.

    Raises:
        RotationRefused: the switch is too young.
        KeyFileInvalid: the issuer has no signing key.
    """
    path = _signing(directory, issuer)
    kid = read_file(path)["kid"]
    ring = _ring(directory)
    gone = [entry["kid"] for entry in ring if entry["issuer"] == issuer and entry["kid"] != kid]
    if not any(entry["kid"] == kid for entry in ring):
        raise KeyFileInvalid(f"{directory / KEYRING} does not hold the key of {path}.")
    left = path.stat().st_mtime + OVERLAP_SECONDS - time.time()
    if gone and left > 0 and not leaked:
        raise RotationRefused(
            f"Calls under way may carry what the old key of {issuer} signed: "
            f"come back in {left:.0f} s, or say --leaked."
        )
    write_file(directory / KEYRING, {"keys": [e for e in ring if e["kid"] not in gone]}, PUBLIC)
    return gone
