"""Runs the extraction process and turns its end into a text or a reason."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from meshkit.logging import logger
from services.ingestion.extraction.model import Extracted, FileRefused
from services.ingestion.extraction.ocr import OcrPolicy
from services.ingestion.extraction.worker import MEMORY_MARK

log = logger(__name__)

_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT", "TESSDATA_PREFIX")
_LONGEST_RESULT = 1 << 30
_MEMORY_WORDS = (MEMORY_MARK, "memory allocation", "MemoryError", "bad_alloc", "Out of memory")
_MEMORY_SIGNALS = {signal.SIGKILL, signal.SIGTRAP, signal.SIGILL}
"""SIGKILL comes from the kernel's out-of-memory killer, the others from pdfium's."""


Progress = Callable[[int, int], None]
"""Told units done and to do."""


class ReaderDied(FileRefused):
    """The process ended without saying anything.

    It may have been killed for what is none of the file's doing: by a kernel short of memory,
    by an installation that was changed.
    """


@dataclass(frozen=True, slots=True)
class Usage:
    """What reading a file took."""

    seconds: float
    peak_bytes: int
    """Most memory of its process and the largest below it; 0 when it was killed."""


def _unheard(*_: object) -> None:
    """Takes what nobody asked for."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one extraction may use."""

    memory_bytes: int = 1_500_000_000
    """Address space of the process."""
    seconds: float = 300.0
    """Wall-clock and CPU time, recognition of pages not counted."""
    ocr: OcrPolicy = field(default_factory=OcrPolicy)


async def extract(
    path: Path,
    file_name: str,
    limits: Limits,
    progress: Progress = _unheard,
    used: Callable[[Usage], None] = _unheard,
) -> Extracted:
    """Reads a file in a process of its own; cancelling kills that process and its children.

    Args:
        path: The file.
        file_name: Name it was uploaded under; tells text formats apart.
        limits: What the process may use.
        progress: Told pages done and to do, a few times a second.
        used: Told at the end what it took, also when the file is refused.

    Raises:
        FileRefused: With the reason that the file, not the service, is to blame for.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    listener = _Listener(progress)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.ingestion.extraction.worker"),
        _order(path, file_name, limits),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LONGEST_RESULT,
        env=_environment(),
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(limits.seconds) as deadline:
            outcome, complaint = await asyncio.gather(
                listener.outcome(process, deadline), _tail(process)
            )
            code = await process.wait()
    except TimeoutError:
        raise _timeout(limits) from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        used(Usage(loop.time() - began, listener.peak_bytes))
    if outcome is None:
        log.warning("reader died", code=code)
        raise _death(code, complaint, limits)
    return outcome


def _order(path: Path, file_name: str, limits: Limits) -> str:
    return json.dumps(
        {
            "path": str(path),
            "name": file_name,
            "memory_bytes": limits.memory_bytes,
            "cpu_seconds": int(limits.seconds) + 1,
            "ocr": asdict(limits.ocr),
        }
    )


def _environment() -> dict[str, str]:
    """What the process needs and no more: no secret of the service reaches a parser."""
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {**passed, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}


class _Listener:
    """Follows what the process prints."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.peak_bytes = 0

    async def outcome(
        self, process: asyncio.subprocess.Process, deadline: asyncio.Timeout
    ) -> Extracted | None:
        """The text; None when the process ends without a last word.

        Raises:
            FileRefused: as the process says.
        """
        assert process.stdout is not None
        while line := await process.stdout.readline():
            if not line.endswith(b"\n"):
                return None
            # A large result takes long to parse: not on the event loop.
            message = await asyncio.to_thread(json.loads, line)
            if "progress" in message:
                self._progress(*message["progress"])
            elif "allow" in message:
                due = deadline.when()
                assert due is not None
                deadline.reschedule(due + message["allow"])
            else:
                self.peak_bytes = message["peak_bytes"]
                if "raised" in message:
                    # Not the message, which may quote the document.
                    log.warning("reader failed", raised=message["raised"])
                if "refused" in message:
                    raise FileRefused(**message["refused"])
                return Extracted.from_json(message["extracted"])
        return None


async def _tail(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    tail = b""
    while piece := await process.stderr.read(65536):
        tail = (tail + piece)[-65536:]
    return tail.decode("utf-8", "replace")


def _timeout(limits: Limits) -> FileRefused:
    return FileRefused(
        "EXTRACTION_TIMEOUT",
        f"Reading the file took longer than {limits.seconds:.0f} seconds; split it into parts.",
    )


def _death(code: int, complaint: str, limits: Limits) -> FileRefused:
    if code == -signal.SIGXCPU:
        return _timeout(limits)
    if -code in _MEMORY_SIGNALS or any(word in complaint for word in _MEMORY_WORDS):
        return ReaderDied(
            "EXTRACTION_MEMORY",
            f"Reading the file needs more than {limits.memory_bytes // 1_000_000} MB of memory;"
            " split it into parts.",
        )
    return ReaderDied(
        "FILE_CORRUPT", "The file is damaged in a way that stops its reader; save it anew."
    )
