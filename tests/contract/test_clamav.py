"""What is asked of ClamAV's daemon, and what its answers mean."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import threading
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshkit.errors import Unavailable
from services.ingestion.clamav import Address, Infected, Scanner
from services.ingestion.extraction.model import FileRefused
from tests.contract.clamd import EICAR, STREAM_BYTES, Clamd


def asking(address: Address, *, passing: bool = False, most: int = 1 << 20) -> Scanner:
    return Scanner(address, max_bytes=most, seconds=30, pass_unscannable=passing)


def at(daemon: Clamd) -> Address:
    return Address.parse(str(daemon.socket))


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside", data)
    return file.getvalue()


@pytest.mark.parametrize("data", [EICAR, zipped(EICAR)], ids=["plain", "zipped"])
async def test_malware_is_named_by_its_signature(
    scanner: Clamd, tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(Infected, match="Eicar-Test"):
        await asking(at(scanner)).check(tmp_path / "file")


@pytest.mark.parametrize("data", [b"", b"hello", os.urandom(70_000)], ids=["empty", "small", "two"])
async def test_a_file_in_which_nothing_is_found_goes_on(
    scanner: Clamd, tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "file").write_bytes(data)
    assert await asking(at(scanner)).check(tmp_path / "file") == ""


@pytest.mark.parametrize(
    ("data", "most", "why"),
    [
        (b"x" * 1001, 1000, "larger than 1000 bytes"),
        (b"x" * (10 * STREAM_BYTES), 1 << 30, "larger than clamd's StreamMaxLength"),
        (zipped(b"x" * 2_000_000), 1 << 30, "more than the scanner looks at"),
    ],
    ids=["ours", "clamd's", "inside"],
)
async def test_what_cannot_be_scanned_wholly_is_refused_or_passed_with_a_warning(
    scanner: Clamd, tmp_path: Path, data: bytes, most: int, why: str
) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(FileRefused, match=why) as refused:
        await asking(at(scanner), most=most).check(tmp_path / "file")
    assert refused.value.reason == "FILE_NOT_SCANNED"
    warning = await asking(at(scanner), most=most, passing=True).check(tmp_path / "file")
    assert why in warning


async def test_what_was_said_before_the_line_broke_is_heard(tmp_path: Path) -> None:
    """clamd refuses in the middle of a file and closes; the next write fails."""
    path = tmp_path / "socket"

    def serve(listener: socket.socket) -> None:
        line, _ = listener.accept()
        with line:
            line.recv(10)
            line.sendall(b"INSTREAM size limit exceeded. ERROR\0")

    (tmp_path / "file").write_bytes(b"x" * 5_000_000)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        scan = asking(Address("", 0, str(path)), passing=True, most=1 << 30)
        warning = await scan.check(tmp_path / "file")
        thread.join()
    assert "larger than clamd's StreamMaxLength" in warning


@asynccontextmanager
async def server(reply: bytes | None) -> AsyncIterator[Address]:
    """Says `reply` to whatever it is sent and closes; None: says nothing and keeps the line."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if reply is None:
            await over.wait()
        else:
            await reader.read(10)
            writer.write(reply)
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Address(*listener.sockets[0].getsockname()[:2])
    finally:
        over.set()
        listener.close()


@pytest.mark.parametrize(
    "reply",
    [b"", b"stream: OK", b"x" * 100_000, b"stream: lstat() failed ERROR\0", b"\0", b"FOUND\0"],
    ids=["closed", "half", "endless", "error", "nothing", "nameless"],
)
async def test_an_answer_that_says_nothing_of_the_file_is_no_pass(
    tmp_path: Path, reply: bytes
) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    async with server(reply) as address:
        with pytest.raises(Unavailable) as held:
            await asking(address, passing=True).check(tmp_path / "file")
    assert held.value.reason == "SCANNER_UNAVAILABLE"


async def test_a_daemon_that_hangs_or_is_not_there_is_no_pass(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    async with server(None) as address:
        with pytest.raises(Unavailable):
            await Scanner(address, 100, seconds=0.2).check(tmp_path / "file")
    for gone in (Address("", 0, str(tmp_path / "none")), address):
        with pytest.raises(Unavailable):
            await asking(gone).check(tmp_path / "file")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("clamd:3310", Address("clamd", 3310)),
        ("[::1]:3310", Address("::1", 3310)),
        ("/run/clamav/clamd.ctl", Address("", 0, "/run/clamav/clamd.ctl")),
        ("unix:/run/clamd", Address("", 0, "/run/clamd")),
    ],
)
def test_an_address_is_a_host_and_port_or_a_path(text: str, address: Address) -> None:
    assert Address.parse(text) == address


@pytest.mark.parametrize("text", ["clamd", ":3310", "clamd:0", "clamd:x", "clamd:70000", "run/x"])
def test_another_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must look like"):
        Address.parse(text)
