"""The process that reads one file under limits, started by `runner`.

    python -m services.ingestion.extraction.worker ORDER

ORDER is the path, the file's name and the limits as JSON. Prints JSON lines:
`{"progress": [done, total]}` and `{"allow": seconds}` (more time, for a page to be
recognised) while it reads, then one `{"extracted": ...}` or `{"refused": {reason,
detail}}`, with `peak_bytes` beside it. It imports neither gRPC nor the rest of the
service, opens no socket, writes no file, and dies with its parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

from services.ingestion.extraction.model import FileRefused, Source
from services.ingestion.extraction.ocr import OcrPolicy, Recogniser
from services.ingestion.extraction.reading import read
from services.ingestion.extraction.tools import Tools

_PR_SET_PDEATHSIG = 1
_PROGRESS_SECONDS = 0.3
_DRAWING_SECONDS = 5
MEMORY_MARK = "out of memory"
"""Written to standard error when memory ran out, for the parent to see."""


def main(arguments: list[str]) -> None:
    """Reads the file named by the order and prints the outcome."""
    order = json.loads(arguments[0])
    _limit(order["memory_bytes"], order["cpu_seconds"])
    ocr = order["ocr"]
    policy = OcrPolicy(tuple(ocr["languages"]), ocr["page_seconds"], ocr["most_pages"])
    tools = Tools(progress=_Reporter(), ocr=Recogniser(policy, _allow))
    try:
        found = read(Source(Path(order["path"]), order["name"]), tools)
        outcome: dict[str, object] = {"extracted": found.to_json()}
    except FileRefused as refused:
        outcome = {"refused": {"reason": refused.reason, "detail": refused.detail}}
    except MemoryError:
        sys.exit(MEMORY_MARK)
    except Exception as error:  # noqa: BLE001 - parsers raise whatever broken bytes lead them to
        place = traceback.extract_tb(error.__traceback__)[-1]
        outcome = {
            "refused": {
                "reason": "FILE_CORRUPT",
                "detail": "The file is damaged; open it, save it anew and upload that.",
            },
            "raised": f"{type(error).__qualname__} at {Path(place.filename).name}:{place.lineno}",
        }
    _print({**outcome, "peak_bytes": _peak_bytes()})


def _limit(memory_bytes: int, cpu_seconds: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    os.nice(10)


def _allow(seconds: float) -> None:
    """More time for a page that is to be recognised: here for drawing it, the rest outside."""
    limit, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (limit + _DRAWING_SECONDS, most))
    _print({"allow": seconds})


def _peak_bytes() -> int:
    """Most memory this process held, and the largest child beside it; at least 0.

    Not `ru_maxrss` of this process: it begins with what the parent held at the fork.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return own if sys.platform == "darwin" else own * 1024
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    own = int(found.group(1)) if found else 0
    return (own + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024


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
