"""A project of its own for a data set, so that its texts answer nobody else's questions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from meshkit.cli.client import Client, Target
from meshkit.cli.failure import CommandFailed
from meshkit.cli.output import note

LIFETIME = timedelta(days=1)
"""Of the key, should nobody be left to revoke it."""
FORBIDDEN = 403
NAME = 64
"""Characters of a project's name that are used."""


@contextmanager
def project_of(target: Target, dataset: str) -> Iterator[Target]:
    """The mesh with a key for the project `eval-DATASET`, made if there is none.

    The project stays, so that the next evaluation need not upload again; the key does not.
    A key that may not make projects evaluates in its own.
    """
    name = f"eval-{dataset}"[:NAME]
    with Client(target) as client:
        try:
            project = _project(client, name)
        except CommandFailed as failure:
            if failure.status != FORBIDDEN:
                raise
            note("this key makes no projects: the data set is loaded into its own")
            yield target
            return
        expires = datetime.now(UTC) + LIFETIME
        made = client.request(
            "POST",
            "/v1/keys",
            json={
                "name": "citemesh eval",
                "project_id": project,
                "scopes": ["read", "write"],
                "expires_at": expires.isoformat(),
            },
        )
        note(f"project {name} ({project})")
        try:
            yield replace(target, key=str(made["key"]))
        finally:
            client.request("DELETE", f"/v1/keys/{made['id']}")


def _project(client: Client, name: str) -> str:
    """Id of the living project of this name."""
    for found in client.pages("/v1/projects", "projects"):
        if found["name"] == name and found["state"] == "active":
            return str(found["id"])
    return str(client.request("POST", "/v1/projects", json={"name": name})["id"])
