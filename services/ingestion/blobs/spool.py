"""Temporary copies of blobs: gone when they were read, also after a kill -9.

Each process has a directory of its own and holds a lock on it. The lock goes with the
process, however that ends; the next one to start removes what nobody locks.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from services.ingestion.blobs.failures import disk_errors

_PREFIX = "citemesh-blobs-"


class Spool:
    """A directory of this process, made at once and removed by `close`.

    Args:
        parent: Where to make it; None for the system's directory for temporary files.
    """

    def __init__(self, parent: Path | None) -> None:
        base = parent or Path(tempfile.gettempdir())
        base.mkdir(parents=True, exist_ok=True)
        for left in base.glob(_PREFIX + "*"):
            _remove_unlocked(left)
        self.path, self._lock = _locked_directory(base)

    @contextmanager
    def file(self) -> Iterator[Path]:
        """A new empty file for as long as the block lasts.

        Raises:
            Unavailable: BLOB_STORE_FULL or BLOB_STORE_UNAVAILABLE.
        """
        with disk_errors():
            descriptor, name = tempfile.mkstemp(dir=self.path)
        os.close(descriptor)
        path = Path(name)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Removes the directory and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _locked_directory(base: Path) -> tuple[Path, int]:
    """A new directory and the descriptor that holds its lock."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        # A process that starts at the same moment may take it for one left behind.
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY)
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists():
                    return path, descriptor
            os.close(descriptor)


def _remove_unlocked(directory: Path) -> None:
    """Removes a directory unless its process lives; another user's is left alone."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(descriptor).st_uid != os.geteuid():
                return
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory)
        finally:
            os.close(descriptor)
