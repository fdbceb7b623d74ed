"""The images of k8s/Containerfile: built on the local base, and measured.

python -m tools.pods.images          builds all and prints size and import time of each
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tools.pods.base import base
from tools.pods.podman import Missing, Podman, PodmanFailed, cache, limits
from tools.tree import ROOT

CONTAINERFILE = Path("k8s") / "Containerfile"
MODULES = {
    "gateway": "gateway.__main__",
    "ingestion": "services.ingestion.__main__",
    "embedding": "services.embedding.__main__",
    "retrieval": "services.retrieval.__main__",
    "rerank": "services.rerank.__main__",
    "generation": "services.generation.__main__",
    "guardrail": "services.guardrail.__main__",
    "migrate": "meshkit.cli.maintenance",
}
"""What each image's process imports before it does anything, by target."""
SHARED = "mesh"
"""The target that all of them are made from."""
LABEL = "org.opencontainers.image"
BUILD_SECONDS = 1800.0
RUNS = 5
SITE = {"pip.conf": Path("/etc/pip.conf"), "ca.pem": Path("/etc/ssl/certs/ca-certificates.crt")}
"""How this machine reaches a package registry; never part of an image."""
IMPORT = """
import importlib, resource, sys, time
began = time.perf_counter()
importlib.import_module(sys.argv[1])
took = time.perf_counter() - began
print(took * 1e3, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """What an image weighs and how long its process takes to begin."""

    target: str
    mb: float
    """All layers, the base's too, in 10^6 bytes."""
    own_mb: float
    """Without the layers that all images share, which are pulled once."""
    import_ms: float
    """Median of the import of what the process runs, in a container of its own."""
    resident_mb: float
    """Memory after it, in MiB."""
    packages: int
    """Python distributions in its bill of materials."""


def version() -> str:
    """The project's version, which tags its images."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def reference(target: str) -> str:
    """The name the chart asks for when its registry is `localhost`."""
    return f"localhost/citemesh-{target}:{version()}"


def build(podman: Podman, targets: Iterable[str]) -> Iterator[str]:
    """Builds images one after the other; yields each target that is done.

    Raises:
        PodmanFailed: with the end of what the build printed.
    """
    name, digest = base(podman)
    revision = subprocess.run(
        ("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    ).stdout.strip()
    for target in targets:
        podman(
            "build",
            "--pull=never",
            # For the package registry; containers run on a network of their own.
            "--network=host",
            *limits(),
            f"--file={ROOT / CONTAINERFILE}",
            f"--ignorefile={ROOT / CONTAINERFILE}.dockerignore",
            f"--build-arg=BASE={name}",
            f"--build-arg=BASE_DIGEST={digest}",
            f"--label={LABEL}.version={version()}",
            f"--label={LABEL}.revision={revision or 'unknown'}",
            *(f"--secret=id={key},src={path}" for key, path in SITE.items() if path.exists()),
            f"--target={target}",
            f"--tag={reference(target)}",
            str(ROOT),
            timeout=BUILD_SECONDS,
        )
        yield target


def measure(podman: Podman, target: str) -> Measured:
    """An image's size, and its imports as its own user on a read-only file system."""
    size = int(podman.inspect("image", reference(target))["Size"])
    shared = int(podman.inspect("image", reference(SHARED))["Size"])
    runs = [_in_container(podman, target, "-c", IMPORT, MODULES[target]) for _ in range(RUNS)]
    figures = sorted(tuple(float(word) for word in run.split()) for run in runs)
    took, resident = figures[RUNS // 2]
    listed = _in_container(
        podman, target, "-c", "print(open('/opt/citemesh/sbom.cdx.json').read())"
    )
    packages = len(json.loads(listed)["components"])
    return Measured(target, size / 1e6, (size - shared) / 1e6, took, resident, packages)


def _in_container(podman: Podman, target: str, *arguments: str) -> str:
    return podman(
        "run",
        "--rm",
        "--read-only",
        "--network=none",
        "--cap-drop=all",
        *limits(),
        "--entrypoint=python3",
        reference(target),
        *arguments,
    )


def table(measured: Iterable[Measured]) -> Iterator[str]:
    """A line an image, as the documentation has them."""
    yield "| image | MB | of its own | Python packages | import | memory after it |"
    yield "|---|---|---|---|---|---|"
    for one in measured:
        yield (
            f"| {one.target} | {one.mb:.0f} | {one.own_mb:.0f} | {one.packages} "
            f"| {one.import_ms:.0f} ms | {one.resident_mb:.0f} MiB |"
        )


def main() -> int:
    """Builds and measures every image; 1 when podman is missing or refuses."""
    try:
        podman = Podman.here(cache())
        with podman.alone():
            for target in build(podman, (SHARED, *MODULES)):
                print(f"{datetime.now(UTC):%H:%M:%S} {target} built", file=sys.stderr)
            print("\n".join(table([measure(podman, target) for target in MODULES])))
    except (Missing, PodmanFailed) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
