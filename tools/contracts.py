"""Holds the contracts to their rules: style and comments, format, and compatibility.

    python -m tools.contracts check      # what `make check` asks
    python -m tools.contracts release    # today's contracts become the baseline

buf reads images, not sources, because validate.proto lies in no wheel as a file
(docs/decisions/0002). The baseline, `protos/released/v1.binpb`, is the image of
the contracts as last released; what is in it may be added to and not changed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

ROOT = Path(__file__).resolve().parent.parent
BASELINE = ROOT / "protos" / "released" / "v1.binpb"
OURS = ("--path", "citemesh")
"""The image also holds Google's and buf's own files, which our rules do not judge."""


def tool(name: str) -> str:
    """Path of a program of this environment."""
    return str(Path(sys.executable).with_name(name))


def build_image(target: Path) -> None:
    """Writes all contracts, with their comments, into one image."""
    compiler = ROOT / "protos" / "compile.py"
    subprocess.run((sys.executable, str(compiler), "image", str(target)), check=True)


def without_comments(image: Path) -> bytes:
    """The image as it is kept in git: comments may change freely, so they are left out."""
    contracts = FileDescriptorSet.FromString(image.read_bytes())
    for file in contracts.file:
        file.ClearField("source_code_info")
    return contracts.SerializeToString(deterministic=True)


def buf(*arguments: str) -> bool:
    """Runs buf in the project's folder; False when it found something, which it prints."""
    with tempfile.TemporaryDirectory() as cache:
        # buf wants a cache folder even when it fetches nothing; a home may not be writable.
        environment = {**os.environ, "BUF_CACHE_DIR": cache}
        command = (tool("buf"), *arguments)
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def lint(image: Path) -> bool:
    """Style and a comment on everything, by the rules of buf.yaml."""
    return buf("lint", str(image), *OURS)


def compatible(image: Path, baseline: Path) -> bool:
    """Whether every caller of the baseline is understood by the image."""
    return buf("breaking", str(image), "--against", str(baseline), *OURS)


def formatted() -> bool:
    """Whether the sources have buf's format."""
    return buf("format", "--diff", "--exit-code", "protos")


def check() -> int:
    """Runs all three; 1 when one of them found something."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "contracts.binpb")
        build_image(image)
        results = [formatted(), lint(image), compatible(image, BASELINE)]
    return 0 if all(results) else 1


def release() -> int:
    """Writes the baseline."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "contracts.binpb")
        build_image(image)
        BASELINE.parent.mkdir(parents=True, exist_ok=True)
        BASELINE.write_bytes(without_comments(image))
    return 0


def main(arguments: list[str]) -> int:
    """Runs the command named on the command line."""
    commands = {"check": check, "release": release}
    if len(arguments) != 1 or arguments[0] not in commands:
        print(__doc__, file=sys.stderr)
        return 2
    return commands[arguments[0]]()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
