"""A second worker of ingestion beside the mesh's own, as a deployment would have.

With one worker alone nobody would take over from a frozen one, and no write of one that
wakes would have to be refused.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil

READY_SECONDS = 60.0


class Replica:
    """Ingestion once more, with the environment of the mesh's own and an address of its own.

    Args:
        original: Process id of the mesh's own.
        log: Where it writes.
    """

    def __init__(self, original: int, log: Path) -> None:
        self._environment = psutil.Process(original).environ() | {
            "CITEMESH_INGESTION_LISTEN": "127.0.0.1:0",
            "CITEMESH_TRACE_FILE": str(log.with_suffix(".traces")),
        }
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        """Part of the name under which it holds leases."""

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Starts it, and once more after it was killed; returns when it serves."""
        await asyncio.to_thread(self.stop)
        process = self._process = self._launch()
        until = time.monotonic() + READY_SECONDS
        while not (port := self._serving()):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the second worker does not serve; see {self._log}")
            await asyncio.sleep(0.05)
        self.port = port

    def _launch(self) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "services.ingestion"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _serving(self) -> int:
        for line in self._log.read_text(errors="replace").splitlines():
            if '"event": "serving"' in line:
                return int(json.loads(line)["port"])
        return 0

    def stop(self) -> None:
        """Ends it, whatever state it is in."""
        if self._process is not None and self._process.poll() is None:
            psutil.Process(self._process.pid).resume()
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
