"""Starts the two load generators, each a process of its own, and follows them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from loadtest.load import samples
from loadtest.load.analysis import Stretch
from loadtest.load.mesh import READY_SECONDS
from loadtest.load.plan import Plan
from loadtest.load.samples import Sample

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
ROOT = LOCUSTFILE.parents[2]
MAIN_KEY = "CITEMESH_API_KEY"


class DriverFailed(RuntimeError):
    """A generator ended badly; the text is what it said last."""


class Drivers:
    """Runs plans one after the other.

    Args:
        home: Folder for plans, samples and what the generators say.
        keys: API keys by the name of their variable.
    """

    def __init__(self, home: Path, keys: Mapping[str, str]) -> None:
        self._home = home
        self._keys = dict(keys)
        self._number = 0
        self._running: subprocess.Popen[str] | None = None

    def pids(self) -> list[int]:
        """The generators of this moment."""
        running = self._running
        return [running.pid] if running is not None else []

    def open(
        self, plan: Plan, on_step: Callable[[str], None] = lambda _: None
    ) -> tuple[list[Sample], list[Stretch]]:
        """Runs the open driver; returns its samples, and when its steps were.

        Args:
            plan: What to do.
            on_step: Called with a step's name when it begins.

        Raises:
            DriverFailed: it ended badly.
        """
        path, out = self._files(plan)
        module = "loadtest.load.open_driver"
        begins: dict[str, float] = {}
        found: list[Stretch] = []
        process = self._start([sys.executable, "-m", module, str(path), str(out)], {})
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            if "step" in told:
                begins[told["step"]] = told["at"]
                on_step(told["step"])
            else:
                name = told["ended"]
                found.append(Stretch(name, begins[name], told["at"]))
        self._finish(process)
        return samples.read(out), found

    def closed(self, plan: Plan) -> list[Sample]:
        """Runs Locust; returns its samples.

        Raises:
            DriverFailed: it ended badly.
        """
        path, out = self._files(plan)
        program = Path(sys.executable).with_name("locust")
        command = [str(program), "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
        command += ["--host", plan.url, "--stop-timeout", str(int(plan.timeout_seconds))]
        # Failed requests are figures of the report, not failures of the run.
        command += ["--exit-code-on-error", "0"]
        told = {"CITEMESH_LOAD_PLAN": str(path), "CITEMESH_LOAD_OUT": str(out)}
        process = self._start(command, told)
        assert process.stdout is not None
        for _ in process.stdout:
            pass
        self._finish(process)
        return samples.read(out)

    def _files(self, plan: Plan) -> tuple[Path, Path]:
        self._number += 1
        path = self._home / f"plan-{self._number}.json"
        plan.write(path)
        return path, self._home / f"samples-{self._number}.jsonl"

    def _start(self, command: list[str], told: Mapping[str, str]) -> subprocess.Popen[str]:
        environment = {**os.environ, **self._keys, **told, "PYTHONPATH": str(ROOT)}
        log = (self._home / f"driver-{self._number}.log").open("w")
        with log:
            self._running = subprocess.Popen(
                command,
                env=environment,
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        return self._running

    def _finish(self, process: subprocess.Popen[str]) -> None:
        code = process.wait(READY_SECONDS)
        self._running = None
        if code != 0:
            said = (self._home / f"driver-{self._number}.log").read_text()
            raise DriverFailed(f"a load generator ended with {code}:\n{said[-3000:]}")

    def close(self) -> None:
        """Ends a generator that still runs, because the run was broken off."""
        if self._running is not None and self._running.poll() is None:
            self._running.terminate()
            self._running.wait(10)


def settle(seconds: float) -> Stretch:
    """Does nothing for a while, and says when that was: what the mesh takes at rest."""
    began = time.time()
    time.sleep(seconds)
    return Stretch("idle", began, time.time())
