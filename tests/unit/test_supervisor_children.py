"""Children of the supervisor: restarted, drained, never left behind."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from meshkit.supervisor import health
from meshkit.supervisor.child import Child, ChildFailed, ChildSpec
from meshkit.supervisor.console import Console, LogFile
from meshkit.supervisor.environment import launcher
from meshkit.supervisor.processes import wait_ended

WITHIN_S = 15

READY_THEN_WAIT = """
import pathlib, signal, sys, threading
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: (print("drained", flush=True), stop.set()))
pathlib.Path(sys.argv[1]).touch()
stop.wait()
"""


class Nursery:
    """Makes children and remembers how often they reported a change."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pipe = os.pipe()
        self.states: list[str] = []
        self.console = io.StringIO()
        self.made: list[Child] = []

    def child(self, code: str, *, ready_file: bool = True, **settings: object) -> Child:
        flag = self.directory / "ready"

        def is_ready() -> bool:
            return flag.exists()

        spec = ChildSpec(
            name="test",
            command=[sys.executable, "-c", code, str(flag)],
            environment=dict(os.environ),
            watch=health.condition(is_ready) if ready_file else None,
            **settings,  # type: ignore[arg-type]
        )
        return self.keep(spec)

    def keep(self, spec: ChildSpec) -> Child:
        child = Child(
            spec,
            console=Console(["test"], out=self.console),
            log=LogFile(self.directory / "test.log"),
            pipe=self.pipe[0],
            changed=lambda: self.states.append(child.state.state),
        )
        self.made.append(child)
        return child

    def log(self) -> str:
        return (self.directory / "test.log").read_text()


@pytest.fixture
async def nursery(tmp_path: Path) -> AsyncIterator[Nursery]:
    nursery = Nursery(tmp_path)
    yield nursery
    for child in nursery.made:
        await child.stop(grace=0)
    for descriptor in nursery.pipe:
        os.close(descriptor)


async def pid_other_than(child: Child, pid: int | None) -> int:
    async with asyncio.timeout(WITHIN_S):
        while True:
            if child.state.pid not in (None, pid) and child.state.state == "ready":
                assert child.state.pid is not None
                return child.state.pid
            await asyncio.sleep(0.01)


async def test_a_child_killed_with_9_runs_again_at_once(nursery: Nursery) -> None:
    child = nursery.child(READY_THEN_WAIT)
    child.start()
    await child.wait_ready()
    first = child.state.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    second = await pid_other_than(child, first)
    assert second != first
    assert child.state.restarts == 1
    assert child.state.last_exit == -signal.SIGKILL


async def test_a_stopped_child_drains_and_is_not_started_again(nursery: Nursery) -> None:
    child = nursery.child(READY_THEN_WAIT)
    child.start()
    await child.wait_ready()
    pid = child.state.pid
    assert pid is not None
    await child.stop()
    assert wait_ended(psutil.Process(pid), 1) if psutil.pid_exists(pid) else True
    assert "drained" in nursery.log()
    assert child.state.state == "stopped"
    assert child.state.restarts == 0


async def test_a_child_that_ignores_its_signal_is_killed_after_its_grace(nursery: Nursery) -> None:
    deaf = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "pathlib.Path(sys.argv[1]).touch()\n"
        "time.sleep(60)\n"
    )
    child = nursery.child(deaf)
    child.start()
    await child.wait_ready()
    async with asyncio.timeout(5):
        await child.stop(grace=0.2)
    assert child.state.pid is None


async def test_what_a_child_leaves_behind_ends_with_it(nursery: Nursery) -> None:
    leaving = (
        "import pathlib, subprocess, sys\n"
        "sleeper = subprocess.Popen(['sleep', '60'])\n"
        "print(sleeper.pid, flush=True)\n"
        "pathlib.Path(sys.argv[1]).touch()\n"
        "sleeper.wait()\n"
    )
    child = nursery.child(leaving)
    child.start()
    await child.wait_ready()
    await child.stop()
    grandchild = int(nursery.log().splitlines()[0])
    if psutil.pid_exists(grandchild):
        assert wait_ended(psutil.Process(grandchild), 5)


async def test_a_child_that_never_gets_ready_is_given_up_with_its_last_words(
    nursery: Nursery,
) -> None:
    child = nursery.child("import sys; sys.exit('the port is on fire')")
    child.start()
    with pytest.raises(ChildFailed, match="the port is on fire"):
        await asyncio.wait_for(child.wait_ready(), WITHIN_S)
    assert child.state.restarts > 1


async def test_wrong_settings_are_not_tried_again(nursery: Nursery) -> None:
    child = nursery.child("import sys; print('CITEMESH_X is wrong'); sys.exit(2)")
    child.start()
    with pytest.raises(ChildFailed, match="CITEMESH_X is wrong"):
        await asyncio.wait_for(child.wait_ready(), WITHIN_S)
    assert child.state.restarts == 1


async def test_a_child_that_cannot_be_started_is_told_and_tried_again(nursery: Nursery) -> None:
    tidied: list[int] = []

    def tidy() -> None:
        tidied.append(len(tidied))
        if len(tidied) == 1:
            raise OSError("what it left still runs")

    child = nursery.child(READY_THEN_WAIT, before_restart=tidy)
    child.start()
    await child.wait_ready()
    first = child.state.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await pid_other_than(child, first)
    assert (tidied, child.state.restarts) == ([0, 1], 2)
    assert "what it left still runs" in nursery.console.getvalue()


async def test_a_preparation_that_fails_says_how(nursery: Nursery) -> None:
    child = nursery.child("import sys; sys.exit('no disk')", ready_file=False)
    with pytest.raises(ChildFailed, match=r"ended with exit code 1[\s\S]*no disk"):
        await child.run_once()


async def test_a_line_without_end_does_not_fill_the_memory_and_all_of_it_is_logged(
    nursery: Nursery,
) -> None:
    child = nursery.child("print('x' * 1_000_000 + 'end')", ready_file=False)
    await child.run_once()
    text = nursery.log()
    assert text.replace("\n", "") == "x" * 1_000_000 + "end"
    assert max(map(len, text.splitlines())) <= 100_000


async def test_a_module_ends_when_the_supervisor_s_pipe_closes(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = nursery.directory / "waiting_module.py"
    module.write_text(READY_THEN_WAIT)
    flag = nursery.directory / "ready"
    monkeypatch.setenv("PYTHONPATH", f"{nursery.directory}:{os.environ.get('PYTHONPATH', '')}")
    spec = ChildSpec(
        name="test",
        command=launcher("waiting_module", str(flag)),
        environment=dict(os.environ),
        watch=health.condition(flag.exists),
    )
    child = nursery.keep(spec)
    child.start()
    await asyncio.wait_for(child.wait_ready(), WITHIN_S)
    first = child.state.pid
    os.close(nursery.pipe[1])
    try:
        await asyncio.wait_for(pid_ended(first), WITHIN_S)
        assert "drained" in nursery.log()
    finally:
        nursery.pipe = (nursery.pipe[0], os.open(os.devnull, os.O_WRONLY))


async def pid_ended(pid: int | None) -> None:
    assert pid is not None
    with suppress(psutil.NoSuchProcess):  # it was faster
        assert await asyncio.to_thread(wait_ended, psutil.Process(pid), WITHIN_S)


def test_a_program_ends_with_the_supervisor_where_there_is_no_prctl() -> None:
    code = (
        "import sys; from meshkit.supervisor import launch\n"
        "sys.platform = 'darwin'\n"
        "launch.main(['program', sys.argv[1], '-c', sys.argv[2]])\n"
    )
    program = (
        "import signal, sys, threading; stop = threading.Event()\n"
        "signal.signal(signal.SIGINT, lambda *_: stop.set())\n"
        "print('up', flush=True); stop.wait(); print('fast shutdown', flush=True)\n"
    )
    ours, theirs = os.pipe()
    environment = {
        **os.environ,
        "CITEMESH_SUPERVISOR_PID": str(os.getpid()),
        "CITEMESH_SUPERVISOR_FD": str(ours),
        "CITEMESH_LAUNCH_DEATH_SIGNAL": str(int(signal.SIGINT)),
    }
    with subprocess.Popen(
        [sys.executable, "-c", code, sys.executable, program],
        env=environment,
        pass_fds=(ours,),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(ours)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        os.close(theirs)
        assert process.stdout.readline() == "fast shutdown\n"
        assert process.wait(WITHIN_S) == 0
