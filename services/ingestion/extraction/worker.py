"""The process that reads one file under limits, started by `runner`.

    python -m services.ingestion.extraction.worker PATH NAME MEMORY_BYTES CPU_SECONDS

Prints JSON lines: `{"progress": [done, total]}` while it reads, then one
`{"extracted": ...}` or `{"refused": {reason, detail}}`. It imports neither gRPC
nor the rest of the service, opens no socket, and dies with its parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

from services.ingestion.extraction import decoding, markdown, media
from services.ingestion.extraction.model import DOCX, HTML, MARKDOWN, PDF, Extracted, FileRefused

_PR_SET_PDEATHSIG = 1
_PROGRESS_SECONDS = 0.3
MEMORY_MARK = "out of memory"
"""Written to standard error when memory ran out, for the parent to see."""


def main(arguments: list[str]) -> None:
    """Reads the file named by the arguments and prints the outcome."""
    path, name, memory_bytes, cpu_seconds = arguments
    _limit(int(memory_bytes), int(cpu_seconds))
    try:
        outcome = {"extracted": _extract(Path(path), name).to_json()}
    except FileRefused as refused:
        outcome = {"refused": {"reason": refused.reason, "detail": refused.detail}}
    except MemoryError:
        sys.exit(MEMORY_MARK)
    _print(outcome)


def _extract(path: Path, name: str) -> Extracted:
    media_type = media.of_file(path, name)
    if media_type == PDF:
        from services.ingestion.extraction import pdf

        return pdf.extract(path, _Reporter())
    if media_type == DOCX:
        from services.ingestion.extraction import docx

        return _with_text(docx.extract(path))
    data = path.read_bytes()
    if media_type == HTML:
        from services.ingestion.extraction import html

        return _with_text(html.extract(data))
    text = decoding.decode(data)
    return _with_text(markdown.extract(text) if media_type == MARKDOWN else Extracted(text))


def _with_text(extracted: Extracted) -> Extracted:
    if not extracted.text.strip():
        raise FileRefused("NO_TEXT", "The file holds no text; nothing in it could be found.")
    return extracted


def _limit(memory_bytes: int, cpu_seconds: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    os.nice(10)


class _Reporter:
    """Prints progress a few times a second."""

    def __init__(self) -> None:
        self._reported = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._reported >= _PROGRESS_SECONDS:
            self._reported = now
            _print({"progress": [done, total]})


def _print(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
