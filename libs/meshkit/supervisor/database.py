"""Which Postgres the mesh uses, and each service's URL on it.

Without further settings an embedded one. When `CITEMESH_DATABASE_URL` is set (an old processor, a
Postgres that exists anyway) none is started: that URL must belong to a role that may create roles
and extensions, because `citemesh up` prepares the database itself. The passwords of the runtime
roles are generated and kept in the data directory either way.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from meshkit.components import RUNTIME_ROLES

ROLE_PREFIX = "citemesh_"


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the database as its administrator and as each runtime role."""

    admin_url: str = field(repr=False)
    passwords: Mapping[str, str] = field(repr=False)

    def url_of(self, role: str) -> str:
        """The administrator's URL with the role's name and password in its place."""
        parts = urlsplit(self.admin_url)
        host = parts.netloc.rpartition("@")[2]
        credentials = f"{quote(role, safe='')}:{quote(self.passwords[role], safe='')}"
        return urlunsplit(parts._replace(netloc=f"{credentials}@{host}"))

    def urls(self) -> dict[str, str]:
        """URL by service, such as `retrieval`."""
        return {role.removeprefix(ROLE_PREFIX): self.url_of(role) for role in self.passwords}

    def preparation_environment(self) -> dict[str, str]:
        """What `meshkit.supervisor.prepare` reads."""
        return {
            "CITEMESH_ADMIN_DATABASE_URL": self.admin_url,
            "CITEMESH_ROLE_PASSWORDS": json.dumps(dict(self.passwords)),
        }


def external(directory: Path) -> Access | None:
    """Access to the Postgres named by `CITEMESH_DATABASE_URL`; None when an embedded one is used.

    Args:
        directory: where the generated passwords are kept.
    """
    url = os.environ.get("CITEMESH_DATABASE_URL", "")
    if not url:
        return None
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "external.json"
    passwords: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    missing = [role for role in RUNTIME_ROLES if role not in passwords]
    if missing:
        passwords |= {role: secrets.token_urlsafe(24) for role in missing}
        write_private(path, json.dumps(passwords, indent=1))
    return Access(url, passwords)


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner may read, from its first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
