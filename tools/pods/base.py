"""A base for images where no container registry can be reached: Debian by debootstrap.

Stands in for the base that k8s/Containerfile names. Made once, kept in podman's storage.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tools.pods.podman import Podman, PodmanFailed

NAME = "localhost/citemesh-base"
RELEASE = "bookworm"
PACKAGES = ("ca-certificates", "python3", "python3-venv")
SECONDS = 900.0


def base(podman: Podman) -> tuple[str, str]:
    """Name and digest of the base image, which is made first where it is not there.

    Raises:
        PodmanFailed: Debian's packages could not be had.
    """
    found = podman.inspect("image", NAME)
    if found is None:
        _make(podman)
        found = podman.inspect("image", NAME)
    return NAME, str(found["Digest"])


def _make(podman: Podman) -> None:
    with tempfile.TemporaryDirectory(dir=podman.folder / "tmp") as scratch:
        root, archive = Path(scratch) / "root", Path(scratch) / "root.tar"
        _run(
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            RELEASE,
            str(root),
        )
        # What apt fetched is no part of the system.
        kept = ("--exclude=./var/cache/apt/*", "--exclude=./var/lib/apt/lists/*")
        _run("tar", "-C", str(root), *kept, "-cf", str(archive), ".")
        podman("import", str(archive), NAME, timeout=SECONDS)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-10:])
        raise PodmanFailed(f"{command[0]} failed:\n{tail}")
