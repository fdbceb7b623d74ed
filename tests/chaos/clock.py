"""Clocks of processes that can be set wrong, one by one, while the machine's own stays right."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")
SECONDS = struct.Struct("i")


class Unsettable(Exception):
    """No clock can be set here; the text is one line that says why."""


class Clocks:
    """The wall clocks of processes that were started with `environment`.

    Args:
        folder: For the library and what it reads; every account must reach it.

    Raises:
        Unsettable: no compiler, or a system that has no LD_PRELOAD.
    """

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None or not sys.platform.startswith("linux"):
            raise Unsettable("a clock jump needs Linux and a C compiler (apt-get install gcc)")
        self._folder = folder
        folder.mkdir(mode=0o755)
        library = folder / "clock.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, SOURCE], check=True)
        most = int(Path("/proc/sys/kernel/pid_max").read_text())
        self._moved = folder / "clocks"
        self._moved.touch(mode=0o644)
        os.truncate(self._moved, (most + 1) * SECONDS.size)
        self._variables = {
            "LD_PRELOAD": str(library),
            "CITEMESH_CHAOS_CLOCKS": str(self._moved),
        }
        # The embedded Postgres gets an environment of its own, but the path of Python's modules:
        # what launches it takes the variables from here.
        (folder / "sitecustomize.py").write_text(
            f"import os\n\nos.environ.update({self._variables!r})\n"
        )

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the supervisor whose processes' clocks shall be settable."""
        paths = [str(self._folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**self._variables, "PYTHONPATH": os.pathsep.join(paths)}

    def move(self, processes: Iterable[int], seconds: int) -> None:
        """From now on the clocks of these process ids are so far from the machine's."""
        with self._moved.open("r+b", buffering=0) as file:
            for process in processes:
                file.seek(process * SECONDS.size)
                file.write(SECONDS.pack(seconds))
