"""What lies where in the data directory of an embedded mesh, and who holds it.

.citemesh/
    lock           held (flock) by the supervisor; says its pid, address and start
    state.json     what `citemesh status` shows
    api_key        0600: key of the project `default`, for the command line
    identity/      0700: keyring and signing keys
    postgres/      the embedded Postgres
    blobs/         source files of documents
    lexical/       the embedded lexical index
    logs/          one file per process, bounded
    traces/        spans of each process, bounded
    up.log         what `citemesh up --detach` would have printed
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

DEFAULT = Path(".citemesh")


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """Paths below the data directory."""

    root: Path

    @classmethod
    def at(cls, path: Path | None) -> DataDirectory:
        """The directory asked for, or `.citemesh` here."""
        return cls((path or DEFAULT).expanduser().absolute())

    @property
    def lock(self) -> Path:
        """Held by the supervisor while the mesh is up."""
        return self.root / "lock"

    @property
    def state(self) -> Path:
        """What runs, written by the supervisor whenever it changes."""
        return self.root / "state.json"

    @property
    def api_key(self) -> Path:
        """Key of the default project."""
        return self.root / "api_key"

    @property
    def identity(self) -> Path:
        """Keyring and signing keys."""
        return self.root / "identity"

    @property
    def postgres(self) -> Path:
        """The embedded Postgres."""
        return self.root / "postgres"

    @property
    def blobs(self) -> Path:
        """Source files."""
        return self.root / "blobs"

    @property
    def lexical(self) -> Path:
        """The embedded lexical index."""
        return self.root / "lexical"

    @property
    def logs(self) -> Path:
        """Log files."""
        return self.root / "logs"

    @property
    def traces(self) -> Path:
        """Spans, one file per process."""
        return self.root / "traces"

    @property
    def detached_log(self) -> Path:
        """Output of a detached supervisor."""
        return self.root / "up.log"

    def create(self) -> None:
        """Makes the directories; git is told to ignore all of it."""
        self.root.mkdir(parents=True, exist_ok=True)
        for directory in (self.logs, self.traces, self.blobs, self.lexical):
            directory.mkdir(mode=0o700, exist_ok=True)
        ignore = self.root / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a data directory."""

    pid: int
    url: str
    since: str


class DirectoryHeld(Exception):
    """Another supervisor holds the data directory."""

    def __init__(self, root: Path, holder: Holder | None) -> None:
        who = "another process"
        if holder is not None:
            who = f"process {holder.pid}, serving {holder.url} since {holder.since}"
        super().__init__(f"{root} is held by {who}; `citemesh down` stops it.")
        self.holder = holder


class DirectoryLock:
    """Exclusive hold on a data directory; the kernel lets go of it when the process ends.

    Raises on entry:
        DirectoryHeld: someone else holds it.
    """

    def __init__(self, directory: DataDirectory, holder: Holder) -> None:
        self._directory = directory
        self._holder = holder
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        self._directory.root.mkdir(parents=True, exist_ok=True)
        path = self._directory.lock
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise DirectoryHeld(self._directory.root, read_holder(path)) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(self._holder)).encode(), 0)
        self._descriptor = descriptor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def holder(directory: DataDirectory) -> Holder | None:
    """Who holds the directory now; None when nobody does."""
    try:
        descriptor = os.open(directory.lock, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return read_holder(directory.lock)
    finally:
        os.close(descriptor)
    return None


def read_holder(path: Path) -> Holder | None:
    """What the lock file says; None while its holder is just writing it."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return Holder(int(content["pid"]), str(content["url"]), str(content["since"]))
    except (OSError, ValueError, KeyError):
        return None
