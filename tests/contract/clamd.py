"""A real clamd with a signature database of its own, which knows the EICAR test file."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.contract.wire import Streams

EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
STREAM_BYTES = 200_000
"""StreamMaxLength of the daemon."""
HOW_TO_GET = "malware scan tests need ClamAV's daemon: apt-get install clamav-daemon"
_START_SECONDS = 60
_CONFIGURATION = """
DatabaseDirectory {directory}/db
TemporaryDirectory {directory}/tmp
LocalSocket {directory}/socket
LogFile {directory}/log
Foreground yes
MaxThreads 2
StreamMaxLength {stream_bytes}
MaxScanSize 100000
AlertExceedsMax yes
"""


class Missing(Exception):
    """There is no clamd on this machine; the text says what to install."""


@dataclass(frozen=True, slots=True)
class Clamd:
    """Where it listens."""

    socket: Path

    async def connect(self) -> Streams:
        """A connection of a `wire_to` it."""
        return await asyncio.open_unix_connection(self.socket)


@contextmanager
def clamd(directory: Path) -> Iterator[Clamd]:
    """A daemon of its own; with so few signatures it is there in a moment.

    Raises:
        Missing: when none is installed.
    """
    program = shutil.which("clamd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise Missing(HOW_TO_GET)
    for name in ("db", "tmp"):
        (directory / name).mkdir(parents=True)
    fingerprint = hashlib.sha256(EICAR).hexdigest()
    (directory / "db" / "own.hsb").write_text(f"{fingerprint}:{len(EICAR)}:Eicar-Test\n")
    configuration = directory / "clamd.conf"
    configuration.write_text(_CONFIGURATION.format(directory=directory, stream_bytes=STREAM_BYTES))
    with (directory / "output").open("wb") as output:
        process = subprocess.Popen(
            [program, "--config-file", str(configuration)], stdout=output, stderr=output
        )
    try:
        until = time.monotonic() + _START_SECONDS
        while not (directory / "socket").exists():
            said = (directory / "output").read_text(errors="replace")
            assert process.poll() is None, f"clamd ended: {said}"
            assert time.monotonic() < until, f"clamd does not listen: {said}"
            time.sleep(0.02)
        yield Clamd(directory / "socket")
    finally:
        process.kill()
        process.wait()
