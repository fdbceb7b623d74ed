"""The processes of an embedded mesh, for whoever kills and freezes them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import psutil

from meshkit.supervisor.layout import DataDirectory
from meshkit.supervisor.state import ChildState, read

BACK_SECONDS = 60.0


class Victims:
    """The children of a supervisor, by their names.

    Args:
        data: Where the supervisor says what runs.
    """

    def __init__(self, data: DataDirectory) -> None:
        self._data = data

    def child(self, name: str) -> ChildState:
        """What the supervisor says of a process.

        Raises:
            RuntimeError: the supervisor is gone.
        """
        state = read(self._data.state)
        if state is None:
            raise RuntimeError("the supervisor is gone")
        return next(child for child in state.children if child.name == name)

    def processes(self, *names: str) -> list[int]:
        """Process ids of some parts, or of all and the supervisor."""
        state = read(self._data.state)
        if state is None:
            raise RuntimeError("the supervisor is gone")
        chosen = [child.pid for child in state.children if not names or child.name in names]
        return [pid for pid in (*chosen, 0 if names else state.pid) if pid]

    def port(self, name: str) -> int:
        """Where it listens."""
        return int(self.child(name).address.rpartition(":")[2])

    def restarts(self) -> dict[str, int]:
        """How often each process has been started again."""
        state = read(self._data.state)
        return {child.name: child.restarts for child in state.children} if state else {}

    async def kill(self, name: str) -> None:
        """Kills a process with -9; returns when its successor is ready."""
        pid = await self.running(name)
        os.kill(pid, signal.SIGKILL)
        await self.ready(name, but=pid)

    async def running(self, name: str) -> int:
        """Its process id, once it is ready."""
        await self.ready(name)
        pid = self.child(name).pid
        assert pid is not None
        return pid

    async def ready(self, name: str, but: int = 0) -> None:
        """Waits until a process is ready, after a kill as another one than before.

        Raises:
            TimeoutError: it did not become ready.
        """
        until = time.monotonic() + BACK_SECONDS
        while True:
            child = self.child(name)
            if child.state == "ready" and child.pid not in (None, but):
                return
            if time.monotonic() > until:
                raise TimeoutError(f"{name} is {child.state} {BACK_SECONDS:g} s after a fault")
            await asyncio.sleep(0.05)


@asynccontextmanager
async def frozen(pid: int, *, with_children: bool) -> AsyncIterator[None]:
    """Stops a process, and those below it if asked, until the block ends."""
    family = [psutil.Process(pid)]
    if with_children:
        # The parent first: Postgres begins no session while its others are stopped.
        os.kill(pid, signal.SIGSTOP)
        family += family[0].children(recursive=True)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in reversed(family):
            with suppress(psutil.NoSuchProcess):
                process.resume()
