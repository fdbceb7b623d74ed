"""`python -m gateway.bootstrap`: a first project and a key with every scope.

For `citemesh up` and for the first hour of an installation. Saying it twice
makes nothing twice: a key file whose key still works is left as it is.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from gateway.api_keys import ApiKeys, digest, looks_like_key, new_secret
from gateway.projects import Project, Projects
from gateway.settings import GatewaySettings
from meshkit.database.pool import Database
from meshkit.errors import Conflict, MeshError
from meshkit.process import prepare, refuse
from meshkit.settings import SettingsInvalid

SCOPES = ("read", "write", "admin")


async def project_named(projects: Projects, name: str) -> Project:
    """The project of that name; it is made when there is none."""
    found = await projects.named(name)
    if found is not None:
        return found
    try:
        return await projects.create(name, {})
    except Conflict:
        # Somebody else made it between the two questions.
        made = await projects.named(name)
        if made is None:
            raise
        return made


async def bootstrap(database: Database, name: str, key_file: Path) -> tuple[str, bool]:
    """Makes sure that the project exists and the file holds a working key of it.

    Returns:
        The project's id, and whether a key was made.
    """
    projects, keys = Projects(database), ApiKeys(database)
    project = await project_named(projects, name)
    kept = read_secret(key_file)
    found = await keys.find(digest(kept)) if looks_like_key(kept) else None
    if found is not None and found.project_id == project.id:
        works = not (found.revoked or found.expired)
        if works and found.scopes.issuperset(SCOPES):
            return project.id, False
    secret = new_secret()
    # Written before the row: a key without a file would be lost for ever, a file
    # without a row is made good by the next start.
    write_secret(key_file, secret)
    await keys.create(project.id, name="bootstrap", scopes=SCOPES, principals=(), secret=secret)
    return project.id, True


def read_secret(path: Path) -> str:
    """What the file holds, and nobody else may read from now on; empty without a file."""
    if not path.exists():
        return ""
    path.chmod(0o600)
    return path.read_text(errors="replace").strip()


def write_secret(path: Path, secret: str) -> None:
    """Writes a file that only its owner can read, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
    temporary.replace(path)


async def run(settings: GatewaySettings, name: str, key_file: Path) -> str:
    """Connects, bootstraps and says in a sentence what happened."""
    url = settings.database_url.get_secret_value()
    if not url:
        raise SettingsInvalid("CITEMESH_GATEWAY_DATABASE_URL must name the database.")
    database = await Database.connect(url, role="citemesh_gateway", size=1)
    try:
        project_id, made = await bootstrap(database, name, key_file)
    finally:
        await database.close()
    what = "A key with every scope was written to" if made else "The key is still in"
    return f"Project '{name}' is {project_id}. {what} {key_file}."


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m gateway.bootstrap", description=__doc__)
    parser.add_argument("--project", default="default", help="name of the project")
    parser.add_argument("--key-file", type=Path, required=True, help="where the key is written")
    given = parser.parse_args()
    settings = prepare(GatewaySettings)
    try:
        sentence = asyncio.run(run(settings, given.project, given.key_file))
    except SettingsInvalid as error:
        refuse("gateway", error)
    except MeshError as error:
        sys.stderr.write(f"{error.reason}: {error.detail}\n")
        raise SystemExit(1) from None
    sys.stdout.write(sentence + "\n")


if __name__ == "__main__":
    main()
