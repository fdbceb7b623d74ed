"""Key files: what is in them, how they are written, and when they were replaced.

A signing key file holds one private key, a keyring the public keys a process trusts, each
with the issuer it belongs to. Both are JSON Web Keys (RFC 8037).
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.algorithms import OKPAlgorithm

from meshkit.ids import new_id
from meshkit.logging import logger

log = logger(__name__)

LOOK_SECONDS = 2.0
"""How old what is known of a key file may be."""
KEYRING = "keyring.json"
PRIVATE, PUBLIC = 0o600, 0o644
"""Modes of key files: a signing key, a keyring."""


class KeyFileInvalid(ValueError):
    """A key file cannot be used; the text names the file and says why."""


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key and who may sign with it."""

    kid: str
    issuer: str
    key: Ed25519PublicKey


class Watched:
    """A key file, looked at from time to time to see whether it was replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = self._stamp()
        self._looked = time.monotonic()

    def replaced(self, after: float) -> bool:
        """Whether it is another one than before; looks only if `after` seconds have passed."""
        now = time.monotonic()
        if now < self._looked + after:
            return False
        self._looked = now
        stamp = self._stamp()
        replaced = stamp is not None and stamp != self._seen
        self._seen = stamp or self._seen
        return replaced

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_ino, found.st_size)

    def useless(self, error: KeyFileInvalid) -> None:
        """Says that what lies there now cannot be used."""
        log.error("key file not usable, the former one is kept", problem=str(error))


def private_key(path: Path, of: str = "") -> tuple[str, str, Ed25519PrivateKey]:
    """Name, issuer and key of a signing key file.

    Args:
        path: The file.
        of: The issuer it must be a key of; empty for any.

    Raises:
        KeyFileInvalid: when the file is missing or holds no such key.
    """
    kid, issuer, key = _key_of(read_file(path), path)
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileInvalid(f"{path} holds no Ed25519 private key.")
    if of and issuer != of:
        raise KeyFileInvalid(f"{path} is a key of {issuer}, not of {of}.")
    return kid, issuer, key


def public_keys(path: Path) -> list[TrustedKey]:
    """The keys of a keyring file.

    Raises:
        KeyFileInvalid: when the file is missing or holds something else.
    """
    keys = []
    for entry in read_file(path).get("keys", []):
        kid, issuer, key = _key_of(entry, path)
        if not isinstance(key, Ed25519PublicKey):
            raise KeyFileInvalid(f"{path} must hold public Ed25519 keys only.")
        keys.append(TrustedKey(kid, issuer, key))
    if not keys:
        raise KeyFileInvalid(f"{path} holds no key.")
    return keys


def _key_of(entry: Any, path: Path) -> tuple[str, str, Any]:
    try:
        return str(entry["kid"]), str(entry["issuer"]), OKPAlgorithm.from_jwk(entry)
    except (KeyError, TypeError, ValueError, jwt.InvalidKeyError) as error:
        raise KeyFileInvalid(f"{path} holds an entry that is no key of ours.") from error


def read_file(path: Path) -> dict[str, Any]:
    """The JSON object of a key file.

    Raises:
        KeyFileInvalid: when there is none.
    """
    try:
        entry = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise KeyFileInvalid(f"{path} cannot be read as a key file: {error}.") from error
    if not isinstance(entry, dict):
        raise KeyFileInvalid(f"{path} holds no JSON object.")
    return entry


def new_key(issuer: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A new key of an issuer: what its own file holds, and its line in the keyring."""
    private = Ed25519PrivateKey.generate()
    names = {"kid": new_id("kid"), "issuer": issuer}
    public = OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)
    return {**OKPAlgorithm.to_jwk(private, as_dict=True), **names}, {**public, **names}


def write_file(path: Path, content: dict[str, Any], mode: int) -> None:
    """Replaces a key file in one step: whoever reads it has the old one or the new one."""
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file, indent=1)
    temporary.replace(path)
