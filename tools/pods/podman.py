"""The program podman, with a storage, networks and temporary files of our own.

What the user's podman has stays as it is, and what we build is a cache below one folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NEEDED = ("podman", "runc", "debootstrap")
LIMITS = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
MOST = {"nofile": 65_536, "nproc": 4_096}
"""Resource limits of containers; podman's own are above what a sandbox lets anybody set."""


def cache() -> Path:
    """Where the base and the images lie, for every checkout of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "citemesh" / "pods"


class Missing(Exception):
    """This machine cannot run containers; the text is one line that says what to install."""


class PodmanFailed(Exception):
    """podman refused; the text has its command and the end of what it said."""


@dataclass(frozen=True, slots=True)
class Podman:
    """podman with everything it keeps below `folder`."""

    folder: Path

    @classmethod
    def here(cls, folder: Path) -> Podman:
        """The podman of this machine.

        Raises:
            Missing: podman or what it needs is not installed, or we are not root.
        """
        absent = [name for name in NEEDED if not shutil.which(name)]
        if absent:
            raise Missing(
                f"{', '.join(absent)} not found: as root, apt-get install podman runc netavark "
                "aardvark-dns debootstrap"
            )
        if os.geteuid():
            raise Missing("containers on a bridge are made by root only: sudo make pods")
        for place in ("tmp", "networks"):
            (folder / place).mkdir(parents=True, exist_ok=True)
        return cls(folder)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other runs of ours from this storage until the block ends.

        Raises:
            Missing: another one uses it.
        """
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Missing(f"another run uses {self.folder}") from None
            yield

    def command(self, *arguments: str) -> list[str]:
        """The command line of a call."""
        return [
            "podman",
            f"--root={self.folder / 'storage'}",
            f"--runroot={self.folder / 'run'}",
            f"--network-config-dir={self.folder / 'networks'}",
            "--runtime=runc",
            "--log-level=error",
            *arguments,
        ]

    def environment(self) -> Mapping[str, str]:
        """The environment of a call: temporary files of builds lie in our folder too."""
        return {**os.environ, "TMPDIR": str(self.folder / "tmp")}

    def __call__(self, *arguments: str, timeout: float = 120.0) -> str:
        """What a call printed.

        Raises:
            PodmanFailed: it ended with an error, or not within `timeout` seconds.
        """
        done = self.attempt(*arguments, timeout=timeout)
        if done.returncode:
            raise PodmanFailed(f"podman {' '.join(arguments[:2])}: {_end(done.stderr)}")
        return done.stdout.strip()

    def attempt(self, *arguments: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """A call that may fail.

        Raises:
            PodmanFailed: it did not end within `timeout` seconds.
        """
        try:
            return subprocess.run(
                self.command(*arguments),
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise PodmanFailed(
                f"podman {' '.join(arguments[:2])} did not end within {timeout:g} s"
            ) from None

    def inspect(self, kind: str, name: str) -> Any:
        """What podman knows of an image, container or network; None when there is none."""
        done = self.attempt(kind, "inspect", name)
        return json.loads(done.stdout)[0] if done.returncode == 0 else None


def limits() -> list[str]:
    """Arguments that lower podman's default resource limits to what this process may set."""
    found = []
    for name, number in LIMITS.items():
        hard = resource.getrlimit(number)[1]
        most = MOST[name] if hard == resource.RLIM_INFINITY else min(MOST[name], hard)
        found.append(f"--ulimit={name}={most}:{most}")
    return found


def _end(text: str) -> str:
    """The last lines that say something."""
    return "\n".join(text.strip().splitlines()[-15:])
