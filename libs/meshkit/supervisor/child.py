"""One child process: started, read, watched, started again when it dies, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meshkit.supervisor.backoff import Backoff
from meshkit.supervisor.console import LINE_BYTES, Console, LogFile
from meshkit.supervisor.health import Watch
from meshkit.supervisor.state import ChildState

STARTS_BEFORE_GIVING_UP = 4
"""Starts that may fail while the mesh comes up; once a process was ready it is never given up."""
BAD_SETTINGS = 2
"""Exit code of a process whose settings are wrong: starting it again changes nothing."""
NOT_STARTED = 127
"""Stands for the exit code of a process that did not begin: no memory, no programme."""
READ_GRACE_S = 2.0


class ChildFailed(Exception):
    """A process that is needed does not run; the text ends with its last lines."""

    def __init__(self, name: str, problem: str, tail: Sequence[str]) -> None:
        lines = "".join(f"\n    {line}" for line in tail)
        super().__init__(f"{name} {problem}{':' if lines else '.'}{lines}")
        self.name = name


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run and how."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    """The whole environment; holds secrets."""
    watch: Watch | None = None
    """How to learn that it is ready; None for something that runs to its end."""
    address: str = ""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace: float = 20.0
    """Seconds it gets to end after `stop_signal`, before SIGKILL."""
    before_restart: Callable[[], None] | None = None
    """Clears up what a death left behind; may block."""


class Child:
    """Keeps the process of one `ChildSpec` running.

    Args:
        pipe: read end that tells the child, by end of file, that the supervisor is gone.
        changed: called after every change of `state`.
    """

    def __init__(
        self,
        spec: ChildSpec,
        *,
        console: Console,
        log: LogFile,
        pipe: int,
        changed: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.state = ChildState(spec.name, address=spec.address)
        self.ready = asyncio.Event()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._console = console
        self._log = log
        self._pipe = pipe
        self._changed = changed
        self._was_ready = False
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to keep the process running."""
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.spec.name}")

    async def run_once(self) -> None:
        """Runs the process to its end, for preparations.

        Raises:
            ChildFailed: it ended with another code than 0.
        """
        code = await self._run()
        self._set("stopped")
        if code != 0:
            raise ChildFailed(self.spec.name, _ending(code), list(self._log.tail)[-8:])

    async def wait_ready(self) -> None:
        """Returns when the process is ready for the first time.

        Raises:
            ChildFailed: it died again and again without getting there.
        """
        waiting: asyncio.Future[Any] = asyncio.ensure_future(self.ready.wait())
        both: set[asyncio.Future[Any]] = {waiting, self.failed}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self.failed.done():
            self.failed.result()

    async def stop(self, grace: float | None = None) -> None:
        """Ends the process: its stop signal, time to drain, then SIGKILL."""
        process, keeper = self._process, self._keeper
        self._keeper = None
        if keeper is not None and process is None:
            keeper.cancel()
        self._set("stopping")
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(self.spec.stop_signal)
            try:
                async with asyncio.timeout(self.spec.stop_grace if grace is None else grace):
                    await process.wait()
            except TimeoutError:
                self._console.say(f"{self.spec.name} did not end in time and is killed")
                _kill_group(process.pid)
        if keeper is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
        self._set("stopped")

    # ----------------------------------------------------------------------------------------

    @property
    def _stopping(self) -> bool:
        return self._keeper is None

    async def _keep(self) -> None:
        backoff = Backoff()
        while True:
            began = time.monotonic()
            try:
                if self.spec.before_restart is not None and self.state.restarts:
                    await asyncio.to_thread(self.spec.before_restart)
                code = await self._run()
            except Exception as error:  # noqa: BLE001 - or nobody would ever start it again
                self._console.say(f"{self.spec.name} could not be started: {error}")
                code = NOT_STARTED
            if self._stopping:
                return
            delay = backoff.next_delay(time.monotonic() - began)
            self.state.restarts += 1
            self.state.last_exit = code
            hopeless = code == BAD_SETTINGS or backoff.deaths >= STARTS_BEFORE_GIVING_UP
            if not self._was_ready and hopeless:
                if not self.failed.done():
                    tail = list(self._log.tail)[-8:]
                    self.failed.set_exception(ChildFailed(self.spec.name, _ending(code), tail))
                self._set("stopped")
                return
            when = f"in {delay:g} s" if delay else "at once"
            self._console.say(f"{self.spec.name} {_ending(code)}; it is started again {when}")
            self._set("restarting")
            await asyncio.sleep(delay)

    async def _run(self) -> int:
        """One life of the process; returns how it ended."""
        # A pipe of our own: asyncio's `wait` would also wait for the end of its pipes, which
        # whatever the process leaves behind keeps open.
        ours, theirs = os.pipe()
        try:
            process = await self._spawn(theirs)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self._process = process
        self.state.pid = process.pid
        self._set("starting")
        reading = asyncio.create_task(self._read(ours))
        watching = asyncio.create_task(self._watch()) if self.spec.watch else None
        try:
            code = await process.wait()
        finally:
            if watching is not None:
                watching.cancel()
            _kill_group(process.pid)
            self._process = None
            self.state.pid = None
            self.ready.clear()
        try:
            async with asyncio.timeout(READ_GRACE_S):
                await reading
        except TimeoutError:
            # Something it started in another session still holds the pipe.
            self._console.say(f"{self.spec.name} left a process behind that holds its output")
        if watching is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        return code

    async def _watch(self) -> None:
        def report(ready: bool) -> None:
            if ready:
                self._was_ready = True
                self.ready.set()
            else:
                self.ready.clear()
            if not self._stopping:
                self._set("ready" if ready else "not_ready")

        if self.spec.watch is not None:
            await self.spec.watch(report)

    async def _spawn(self, output: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self.spec.command,
            env={
                **self.spec.environment,
                "CITEMESH_SUPERVISOR_PID": str(os.getpid()),
                "CITEMESH_SUPERVISOR_FD": str(self._pipe),
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(self._pipe,),
            # Its own session: Ctrl-C at the terminal is for the supervisor alone, and whatever
            # the child leaves behind can be found by its group.
            start_new_session=True,
        )

    async def _read(self, output: int) -> None:
        stream = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(output, "rb", buffering=0)
        )
        try:
            async for line in _lines(stream):
                self._log.write(line)
                self._console.child(self.spec.name, line)
        finally:
            transport.close()

    def _set(self, state: str) -> None:
        self.state.state = state
        self._changed()


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Lines of a stream; one longer than `LINE_BYTES` comes in pieces."""
    rest = b""
    while chunk := await stream.read(65536):
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            for start in range(0, len(line) or 1, LINE_BYTES):
                yield line[start : start + LINE_BYTES].decode("utf-8", "replace").rstrip("\r")
        if len(rest) > LINE_BYTES:
            yield rest.decode("utf-8", "replace")
            rest = b""
    if rest:
        yield rest.decode("utf-8", "replace")


def _kill_group(pid: int) -> None:
    """Ends what the process left behind; a child leads a group of the same number."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _ending(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
