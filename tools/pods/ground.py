"""What containers stand on: one bridge without a way out, and a folder for their files.

Names are resolved by podman's own DNS on the bridge: a name that several containers share
has all of their addresses, as that of a headless Service.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.pods.derive import Pod, Volume
from tools.pods.podman import Podman, limits

OPEN = 0o777
"""Of empty directories, which a pod's account must be able to write."""


@dataclass(frozen=True, slots=True)
class Ground:
    """One run's network and files; both are gone afterwards."""

    podman: Podman
    network: str
    gateway: str
    """The machine's own address on the bridge."""
    folder: Path

    def create(self, name: str, pod: Pod, aliases: list[str]) -> None:
        """Makes the container of a pod, which does not run yet."""
        kept = self.folder / name
        kept.mkdir(mode=0o711)
        variables = kept / "environment"
        _write(variables, "".join(f"{k}={v}\n" for k, v in pod.environment.items()), 0o600)
        arguments = [*pod.arguments, f"--env-file={variables}"]
        for number, volume in enumerate(pod.volumes):
            arguments.append(_mounted(kept / str(number), volume, pod.group))
        entry, rest = pod.command[:1], pod.command[1:]
        arguments += [f"--entrypoint={word}" for word in entry]
        self.container(name, pod.image, arguments, aliases, rest)

    def container(
        self,
        name: str,
        image: str,
        arguments: list[str],
        aliases: list[str],
        command: tuple[str, ...] = (),
    ) -> None:
        """Makes a container on the bridge, under a name and the names it shares."""
        self.podman(
            "create",
            "--pull=never",
            f"--name={name}",
            f"--hostname={name}",
            f"--network={self.network}",
            *(f"--network-alias={alias}" for alias in aliases),
            *limits(),
            *arguments,
            image,
            *command,
        )

    def start(self, name: str) -> tuple[str, int]:
        """Starts a container; its address on the bridge, and its process on this machine."""
        self.podman("start", name)
        found = self.podman.inspect("container", name)
        address = found["NetworkSettings"]["Networks"][self.network]["IPAddress"]
        return str(address), int(found["State"]["Pid"])

    def remove(self, name: str) -> None:
        """Removes a container, which may run, and its files."""
        self.podman("rm", "--force", "--time=0", "--volumes", name)
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def log(self, name: str, lines: int = 8) -> str:
        """The end of what a container printed."""
        done = self.podman.attempt("logs", f"--tail={lines}", name)
        return done.stdout + done.stderr

    def running(self) -> int:
        """How many containers run."""
        return len(self.podman("ps", "--quiet").split())

    def left_behind(self) -> int:
        """How many containers and networks of ours there are."""
        containers = self.podman("ps", "--all", "--quiet").split()
        networks = self.podman("network", "ls", "--format={{.Name}}").split()
        return len(containers) + networks.count(self.network)


@contextmanager
def ground(podman: Podman) -> Iterator[Ground]:
    """A network and a folder of our own; all containers are removed with them.

    Call it inside of `Podman.alone`.

    Raises:
        PodmanFailed: there can be no bridge here.
    """
    # The storage is ours alone: what is there was left by a run that was killed.
    _clear(podman)
    name = f"citemesh-{secrets.token_hex(3)}"
    # Internal: no packet leaves this machine, whatever an image tries.
    podman("network", "create", "--internal", name)
    try:
        (subnet,) = podman.inspect("network", name)["subnets"]
        with tempfile.TemporaryDirectory(prefix="citemesh-pods-") as folder:
            Path(folder).chmod(0o711)
            try:
                yield Ground(podman, name, str(subnet["gateway"]), Path(folder))
            finally:
                podman("rm", "--all", "--force", "--time=0", "--volumes")
    finally:
        _clear(podman)


def _clear(podman: Podman) -> None:
    # Those of builds that were cut short too.
    for each in podman("ps", "--all", "--external", "--quiet").split():
        podman("rm", "--force", "--time=0", "--volumes", each)
    for name in podman("network", "ls", "--format={{.Name}}").split():
        if name.startswith("citemesh-"):
            podman("network", "rm", "--force", name)


def _mounted(place: Path, volume: Volume, group: int) -> str:
    """The argument that mounts a volume, whose files are written first."""
    if volume.memory:
        return f"--tmpfs={volume.path}:rw,mode=1777"
    place.mkdir()
    for name, content in volume.files.items():
        _write(place / name, content, volume.mode)
        os.chown(place / name, 0, group)
    place.chmod(0o755 if volume.files else OPEN)
    return f"--volume={place}:{volume.path}{':ro' if volume.read_only else ''}"


def _write(path: Path, text: str, mode: int) -> None:
    """Writes a file that nobody reads before it has its mode."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    path.chmod(mode)
