"""Prints the Secrets that the chart refers to, with fresh keys and passwords.

    python -m tools.k8s.secrets keys | kubectl -n citemesh apply -f -
    python -m tools.k8s.secrets development | kubectl -n citemesh apply -f -

`keys` are the signing keys and their keyring, for any profile. `development` adds the
passwords of the Postgres that comes with profile dev, and labels what it makes so that the
other profiles refuse it. Every run makes new ones: keep what was applied, or all of it
changes. Runs in the project's own environment.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from meshkit.components import COMPONENTS, ISSUERS
from meshkit.identity import create_keyring

RELEASE = "citemesh"
MADE_FOR = {"citemesh.io/made-for": "development"}
"""What profiles prod and airgap refuse."""


def secret(name: str, content: dict[str, str], labels: dict[str, str]) -> dict[str, Any]:
    """One Secret."""
    metadata: dict[str, Any] = {"name": name}
    if labels:
        metadata["labels"] = labels
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": content}


def keys(labels: dict[str, str]) -> list[dict[str, Any]]:
    """The keyring with all public keys, and one private key for each that signs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        create_keyring(folder, ISSUERS)
        ring = {"keyring.json": (folder / "keyring.json").read_text()}
        private = {issuer: (folder / f"{issuer}.key").read_text() for issuer in ISSUERS}
    return [
        secret("citemesh-keyring", ring, labels),
        *(
            secret(f"citemesh-signing-{issuer}", {"signing.key": key}, labels)
            for issuer, key in private.items()
        ),
    ]


def postgres(release: str) -> dict[str, Any]:
    """Passwords and URLs of the Postgres that comes with profile dev."""
    host = f"{release}-postgres:5432/citemesh"
    services = dict.fromkeys(c.service for c in COMPONENTS if c.uses_database)
    passwords = {service: secrets.token_urlsafe(24) for service in ("postgres", *services)}
    content = {
        "postgres-password": passwords["postgres"],
        "migrate-url": f"postgresql://postgres:{passwords['postgres']}@{host}",
        "role-passwords": json.dumps({f"citemesh_{s}": passwords[s] for s in services}),
    }
    for service in services:
        user = f"citemesh_{service}:{passwords[service]}"
        content[f"{service}-url"] = f"postgresql://{user}@{host}"
    return secret("citemesh-postgres", content, MADE_FOR)


def main() -> int:
    """Prints them as YAML."""
    parser = argparse.ArgumentParser(prog="tools.k8s.secrets")
    parser.add_argument("what", choices=("keys", "development"))
    parser.add_argument("--release", default=RELEASE, help="full name of the release")
    arguments = parser.parse_args()
    made = keys({})
    if arguments.what == "development":
        made = [*keys(MADE_FOR), postgres(arguments.release)]
    yaml.safe_dump_all(made, sys.stdout, sort_keys=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
