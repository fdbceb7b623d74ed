"""House rules that hold for files: no registry's host, no machine's path, no long file.

Also the list of the project's own files, which other checks use. It comes from
git where there is one and else from the folder, so that an unpacked archive can
be checked too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 600
"""Lines; above that a file is asked to become a package."""

WHICH = ("--cached", "--others", "--exclude-standard")
DERIVED = {"__pycache__", "build", "dist", "node_modules", "reports"}

# Written in pieces, so that this file passes its own rule.
REGISTRY = re.compile(
    r"\b("
    + "|".join(
        re.escape(".".join(parts))
        for parts in (
            ("pypi", "org"),
            ("files", "pythonhosted", "org"),
            ("registry", "npmjs", "org"),
            ("static", "crates", "io"),
            ("index", "crates", "io"),
            ("proxy", "golang", "org"),
            ("repo1", "maven", "org"),
            ("repo", "maven", "apache", "org"),
            ("deb", "debian", "org"),
        )
    )
    + r")\b"
)
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(home|Users|root|work)/[\w.-]+")
VAGUE = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}


def files() -> list[Path]:
    """The project's files, relative to its folder: committed, or about to be."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(
            # A checkout may belong to another account than ours (CI, a container).
            ("git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", *WHICH),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=False,
        )
        if listed.returncode == 0:
            names = {name for name in listed.stdout.decode().split("\0") if name}
            return sorted(Path(name) for name in names if (ROOT / name).is_file())
    return sorted(walk())


def walk() -> Iterator[Path]:
    """Files below the project's folder without what is derived."""
    generated = ROOT / "libs" / "citemesh"
    for folder, folders, names in os.walk(ROOT):
        here = Path(folder)
        folders[:] = [
            name
            for name in folders
            if name not in DERIVED
            and not name.endswith(".egg-info")
            and (not name.startswith(".") or name == ".ci")
            and here != generated
        ]
        yield from ((here / name).relative_to(ROOT) for name in names)


def text_of(path: Path) -> str | None:
    """A file's text; None for one that is not text."""
    content = (ROOT / path).read_bytes()
    return None if b"\0" in content[:8192] else content.decode("utf-8", errors="replace")


def problems(path: Path, text: str) -> Iterator[str]:
    """What is wrong with one file, a sentence each."""
    for number, line in enumerate(text.splitlines(), 1):
        if REGISTRY.search(line):
            yield f"{path}:{number}: names a package registry's host"
        if MACHINE_PATH.search(line):
            yield f"{path}:{number}: holds a path of one machine"
    if path.suffix == ".py":
        lines = text.count("\n")
        if lines > LONGEST:
            yield f"{path}: {lines} lines; make it a package (at most {LONGEST})"
        if path.stem in VAGUE or path.parent.name in VAGUE:
            yield f"{path}: the name does not say what the file holds"
        if path.name != "__init__.py" and not re.match(r'(#!.*\n)?(\s*#.*\n)*\s*r?"""', text):
            yield f"{path}: does not open with what it is for"


def numbered_twice(paths: list[Path]) -> Iterator[str]:
    """Decisions that two rooms took the same number for."""
    numbered = [path for path in paths if path.parent == Path("docs/decisions")]
    taken = Counter(path.name[:4] for path in numbered)
    for path in numbered:
        if taken[path.name[:4]] > 1:
            yield f"{path}: the number is taken by another decision, too"


def main() -> int:
    """Prints every problem; 1 when there is one."""
    paths = files()
    found = [
        problem
        for path in paths
        if (text := text_of(path)) is not None
        for problem in problems(path, text)
    ]
    found += numbered_twice(paths)
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
