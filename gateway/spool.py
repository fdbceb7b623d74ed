"""Bytes held back for a while: in memory while they are few, else in a temporary file."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import IO

_READ_BYTES = 256 * 1024


class Spool:
    """Bytes to be read once, in the order they were written.

    Args:
        memory_bytes: What is held in memory; the rest goes to a file without a name.
        directory: Directory of that file; the system's when None.
    """

    def __init__(self, memory_bytes: int, directory: Path | None) -> None:
        self._memory_bytes = memory_bytes
        self._directory = directory
        self._memory = bytearray()
        self._file: IO[bytes] | None = None

    async def write(self, data: bytes) -> None:
        """Appends bytes."""
        if self._file is None and len(self._memory) + len(data) <= self._memory_bytes:
            self._memory += data
            return
        await asyncio.to_thread(self._write_to_file, data)

    def _write_to_file(self, data: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 - see __exit__
            self._file.write(self._memory)
            self._memory.clear()
        self._file.write(data)

    async def read(self) -> AsyncIterator[bytes]:
        """Everything that was written, in pieces."""
        if self._file is None:
            yield bytes(self._memory)
            return
        self._file.seek(0)
        while data := await asyncio.to_thread(self._file.read, _READ_BYTES):
            yield data

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
