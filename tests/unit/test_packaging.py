"""What is installed is enough: for a client, and for each process by its own extra."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from meshkit.components import COMPONENTS
from tools.dependencies import PROJECT, closure
from tools.tree import ROOT, files

OURS = {"citemesh", "gateway", "loadtest", "meshkit", "services"}
DISTRIBUTIONS = packages_distributions()

FLOORS = {
    "citemesh": ("libs/citemesh", ()),
    "mesh": ("libs/meshkit", ("mesh",)),
    "cli": ("libs/meshkit/cli", ("cli", "embedded")),
    "embedded": ("libs/meshkit/supervisor", ("embedded",)),
    "local-models": ("libs/meshkit/weights", ("mesh", "local-models")),
    "gemini": ("libs/meshkit/providers/gemini.py", ("mesh", "gemini")),
    "cohere": ("libs/meshkit/providers/cohere.py", ("mesh", "cohere")),
    "anthropic": ("libs/meshkit/providers/anthropic.py", ("mesh", "anthropic")),
    "language": ("libs/meshkit/language.py", ("mesh", "language")),
    "simulator": ("loadtest/simulator", ("simulator",)),
}
"""Folders and modules, and the extras that must be enough for each."""

ROOMS = {
    component.service: (component.module.replace(".", "/"), (component.service,))
    for component in COMPONENTS
}


def imported(path: Path) -> Iterator[str]:
    """Third-party packages that a module imports anywhere but for its types alone."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in names:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top not in OURS:
                yield top


def modules(folder: str) -> list[Path]:
    """The modules of a folder; those of a floor with extras of its own are left out."""
    others = {Path(other) for other, _ in FLOORS.values()} - {Path(folder)}
    return [
        path
        for path in files()
        if path.suffix == ".py"
        and path.is_relative_to(folder)
        and not any(path.is_relative_to(o) for o in others if o.is_relative_to(folder))
    ]


@pytest.mark.parametrize("name", [*FLOORS, *ROOMS])
def test_an_extra_brings_everything_its_modules_import(name: str) -> None:
    folder, extras = (FLOORS | ROOMS)[name]
    brought = set(closure(PROJECT, frozenset(extras)))
    found = modules(folder)
    missing = {
        f"{path} imports {package}"
        for path in found
        for package in imported(path)
        if not {canonicalize_name(d) for d in DISTRIBUTIONS.get(package, ())} & brought
    }
    assert found
    assert missing == set()


def test_a_client_is_grpcio_and_protobuf_and_no_more() -> None:
    brought = set(closure(PROJECT, frozenset()))
    assert brought == {PROJECT, "grpcio", "protobuf", "typing-extensions"}


CLIENT = """
import sys
import citemesh
from citemesh.retrieval import v1 as retrieval
from citemesh.generation import v1 as generation
assert retrieval.SearchRequest(query="leave").query == "leave"
assert retrieval.RetrievalServiceAsyncStub and generation.GenerationServiceAsyncStub
assert citemesh.connect
print(*sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[1:])))
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def copy_distribution(name: str, target: Path) -> None:
    """Installs what is installed here into another environment, without a network."""
    installed = distribution(name)
    for file in installed.files or ():
        if ".." not in file.parts:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(str(installed.locate_file(file)), target / file)


def test_an_empty_environment_becomes_a_client_by_one_install(tmp_path: Path) -> None:
    # A copy, because the build compiles the contracts into the folder it builds from.
    source = tmp_path / "source"
    for path in files():
        if path.parts[0] != "tests":
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, source / path)
    offline = ("--no-deps", "--no-index", "--disable-pip-version-check", "--quiet")
    pip = (sys.executable, "-m", "pip")
    run(*pip, "wheel", *offline, "--no-build-isolation", source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("citemesh-*.whl")

    environment = tmp_path / "client"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    run(*pip, "--python", python, "install", *offline, wheel, cwd=tmp_path)
    packages = next(environment.glob("lib/python3.*/site-packages"))
    for name in set(closure(PROJECT, frozenset())) - {PROJECT}:
        copy_distribution(name, packages)

    heavy = ("asyncpg", "fastapi", "numpy", "opentelemetry", "pydantic", "structlog")
    assert run(python, "-c", CLIENT, *heavy, cwd=tmp_path).split() == []
