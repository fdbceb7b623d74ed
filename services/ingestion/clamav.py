"""Asks ClamAV's daemon about a file, by its INSTREAM protocol.

`zINSTREAM`, then the file in pieces of a length and as many bytes, a length of zero, and one
line comes back (clamd(8)). What the daemon did not look at wholly is never called clean.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from meshkit.errors import Unavailable
from meshkit.logging import logger
from services.ingestion.extraction.model import FileRefused

log = logger(__name__)

_PIECE_BYTES = 1 << 16
_CONNECT_SECONDS = 5.0
_REPLY_BYTES = 4096
_LIMITS = "Heuristics.Limits.Exceeded"
"""What clamd with AlertExceedsMax calls a file whose inside is more than it looks at."""


class Infected(Exception):
    """The file holds what a signature describes; the text is the signature's name."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the daemon listens: a host and port, or the path of a socket."""

    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """`host:port`, `[::1]:3310`, or a path, also as `unix:/path`.

        Raises:
            ValueError: when it is neither.
        """
        path = text.removeprefix("unix:")
        if path.startswith("/"):
            return cls("", 0, path)
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError("it must look like host:3310 or unix:/run/clamav/clamd.ctl")
        return cls(host.strip("[]"), int(port))


@dataclass(frozen=True, slots=True)
class Scanner:
    """A daemon and how it is used."""

    address: Address
    max_bytes: int
    """Largest file that is sent to it; clamd closes the line beyond its StreamMaxLength."""
    seconds: float
    """Time that one file may take."""
    pass_unscannable: bool = False
    """Whether a file that cannot be scanned wholly goes on, with a warning, or is refused."""

    async def check(self, path: Path) -> str:
        """Returns when nothing was found: with a warning for the document, or an empty text.

        Raises:
            Infected: A signature matched.
            FileRefused: FILE_NOT_SCANNED, when it cannot be scanned wholly.
            Unavailable: SCANNER_UNAVAILABLE; nothing is known of the file.
        """
        size = (await asyncio.to_thread(path.stat)).st_size
        if size > self.max_bytes:
            return self._unscannable(f"it is larger than {self.max_bytes} bytes")
        try:
            async with asyncio.timeout(self.seconds):
                reply = await self._ask(path)
        except (OSError, EOFError, TimeoutError) as error:
            raise _unavailable(type(error).__name__) from error
        found = reply.removeprefix("stream: ")
        if found == "OK":
            return ""
        if found.endswith(" FOUND"):
            signature = found.removesuffix(" FOUND")
            if signature.startswith(_LIMITS):
                return self._unscannable("what it holds is more than the scanner looks at")
            raise Infected(signature)
        if "size limit exceeded" in found:
            return self._unscannable("it is larger than clamd's StreamMaxLength")
        log.error("the malware scanner failed", reply=found)
        raise _unavailable("its own error")

    def _unscannable(self, why: str) -> str:
        if self.pass_unscannable:
            return f"not scanned for malware: {why}"
        raise FileRefused(
            "FILE_NOT_SCANNED",
            f"The file could not be scanned for malware: {why}. Split it into parts, or have the"
            " scanner's limits raised and reprocess it.",
        )

    async def _ask(self, path: Path) -> str:
        async with asyncio.timeout(_CONNECT_SECONDS):
            line = await asyncio.to_thread(_connect, self.address)
        # A bare socket: asyncio's streams throw away what was received once a write has
        # failed, and clamd answers before it closes the line of a file it will not take.
        with line:
            reply = asyncio.create_task(_receive(line))
            try:
                with suppress(ConnectionError):
                    await _send(path, line)
                return await reply
            finally:
                reply.cancel()
                await asyncio.gather(reply, return_exceptions=True)


async def _send(path: Path, line: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(line, b"zINSTREAM\0")
    with await asyncio.to_thread(path.open, "rb") as file:
        while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
            await loop.sock_sendall(line, struct.pack("!I", len(piece)) + piece)
    await loop.sock_sendall(line, struct.pack("!I", 0))


async def _receive(line: socket.socket) -> str:
    """The one reply, without the zero that ends it."""
    received = b""
    while not received.endswith(b"\0"):
        piece = await asyncio.get_running_loop().sock_recv(line, _REPLY_BYTES)
        received += piece
        if not piece or len(received) > _REPLY_BYTES:
            raise EOFError("the reply does not end")
    return received[:-1].decode("utf-8", "replace")


def _connect(address: Address) -> socket.socket:
    if not address.path:
        line = socket.create_connection((address.host, address.port), _CONNECT_SECONDS)
    else:
        line = socket.socket(socket.AF_UNIX)
        try:
            line.settimeout(_CONNECT_SECONDS)
            line.connect(address.path)
        except OSError:
            line.close()
            raise
    line.setblocking(False)
    return line


def _unavailable(why: str) -> Unavailable:
    log.warning("the malware scanner does not answer", error=why)
    return Unavailable(
        "SCANNER_UNAVAILABLE",
        "The malware scanner cannot be reached now; the document waits for it.",
        retry_after=1.0,
    )
