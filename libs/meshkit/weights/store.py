"""The cache of verified weights on this machine.

`ensure` is the one door: after it returns, every file lies in the cache with
exactly the bytes the manifest names. A folder that already has them is only
read, so it may be part of a read-only image.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from meshkit.errors import Unavailable
from meshkit.weights.manifest import ModelSpec, WeightFile, find
from meshkit.weights.sources import Source, configured_source

DIRECTORY_VARIABLE = "CITEMESH_WEIGHTS_DIR"


@dataclass(frozen=True, slots=True)
class Weights:
    """A model whose files are on this machine and verified."""

    spec: ModelSpec
    """What the model is and how to run it."""
    files: Mapping[str, Path]
    """File name in the manifest -> path."""

    @property
    def model(self) -> Path:
        """The ONNX graph."""
        return self.files["model.onnx"]

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's description."""
        return self.files["tokenizer.json"]


def ensure(
    names: Iterable[str],
    *,
    directory: Path | None = None,
    source: Source | None = None,
    report: Callable[[str], None] = lambda _line: None,
) -> dict[str, Weights]:
    """Makes sure that weights are on this machine, and returns where.

    Blocks: at the first call for minutes (a download), later for the time of
    hashing the files (about 20 ms each). Several processes may call it at once;
    one fetches, the others wait and find the files.

    Args:
        names: Models of the manifest.
        directory: The cache; by default what `cache_directory` says.
        source: Where missing files come from; by default what the environment says.
        report: Told in one line what is about to be fetched.

    Raises:
        NotFound: WEIGHTS_UNKNOWN: no model of that name.
        Unavailable: WEIGHTS_UNAVAILABLE (not to be had), WEIGHTS_CORRUPT (other
            bytes than the manifest's) or WEIGHTS_DIRECTORY_UNUSABLE.
    """
    specs = [find(name) for name in dict.fromkeys(names)]
    folder = directory or cache_directory()
    wanted = [(spec, file) for spec in specs for file in spec.files]
    if not all(_is_intact(_place(folder, *each), each[1]) for each in wanted):
        with _locked(folder), source or configured_source() as opened:
            for spec, file in wanted:
                if not _is_intact(_place(folder, spec, file), file):
                    report(f"fetching {spec.name}/{file.name} from {file.package}")
                    _fetch(opened, spec, file, _place(folder, spec, file))
    return {
        spec.name: Weights(spec, {file.name: _place(folder, spec, file) for file in spec.files})
        for spec in specs
    }


def cache_directory() -> Path:
    """The folder weights are kept in.

    `CITEMESH_WEIGHTS_DIR`, else `citemesh/weights` in the user's cache folder
    (`XDG_CACHE_HOME`, else `~/.cache`), else, when that cannot be written, a folder of
    this user alone under the system's temporary folder.

    Raises:
        Unavailable: WEIGHTS_DIRECTORY_UNUSABLE: the temporary folder belongs to someone else.
    """
    if named := os.environ.get(DIRECTORY_VARIABLE, "").strip():
        return Path(named).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME", "").strip()
    # An account may have no home at all; os.path says "~" then, Path would raise.
    home = os.path.expanduser("~")  # noqa: PTH111
    folder = (Path(caches) if caches else Path(home, ".cache")) / "citemesh" / "weights"
    if folder.is_absolute() and (folder.is_dir() or _can_be_made(folder)):
        return folder
    return _temporary_directory()


def _can_be_made(folder: Path) -> bool:
    """Tries it: what permissions say is not what file systems do."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return True


def _temporary_directory() -> Path:
    folder = Path(tempfile.gettempdir()) / f"citemesh-weights-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise Unavailable(
            "WEIGHTS_DIRECTORY_UNUSABLE",
            f"{folder} belongs to another user; set {DIRECTORY_VARIABLE} to a folder of your own.",
        )
    return folder


def _place(folder: Path, spec: ModelSpec, file: WeightFile) -> Path:
    return folder / spec.name / file.name


def _is_intact(path: Path, file: WeightFile) -> bool:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
    except OSError:
        # Missing, or not to be read: fetching it says what is wrong, if anything is.
        return False


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the cache for this process; the kernel lets go of it should we die."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("a")
    except OSError as error:
        raise Unavailable(
            "WEIGHTS_DIRECTORY_UNUSABLE",
            f"{folder} cannot be written ({error.strerror}); set {DIRECTORY_VARIABLE} to a "
            "folder that can, or to one that already has the weights.",
        ) from error
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _fetch(source: Source, spec: ModelSpec, file: WeightFile, place: Path) -> None:
    """Copies one file beside its place, checks it, and moves it there in one step."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with (
            source.open(spec, file) as stream,
            tempfile.NamedTemporaryFile(dir=place.parent, prefix=".part-", delete=False) as part,
        ):
            try:
                shutil.copyfileobj(stream, part, 1 << 20)
                part.flush()
                os.fsync(part.fileno())
                _check(Path(part.name), spec, file)
                Path(part.name).chmod(0o644)
                Path(part.name).replace(place)
            except BaseException:
                Path(part.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise Unavailable(
            "WEIGHTS_DIRECTORY_UNUSABLE",
            f"{place} could not be written ({error.strerror}); make room, or set "
            f"{DIRECTORY_VARIABLE} to another folder.",
        ) from error


def _check(path: Path, spec: ModelSpec, file: WeightFile) -> None:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != file.sha256:
        raise Unavailable(
            "WEIGHTS_CORRUPT",
            f"{spec.name}/{file.name} from {file.package} has sha256 {found}, expected "
            f"{file.sha256}; it was not used. Fetch it again from a source you trust.",
        )
