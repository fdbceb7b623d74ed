"""Audits the installed dependencies without a network.

For everything that `citemesh[all,dev]` brings, directly or not: the versions fit
together (`pip check`), no release with a known defect is installed or allowed by
pyproject.toml, nothing is on the list of what is kept out, and every licence is
one of those in `tools/dependencies.toml`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "tools" / "dependencies.toml"
PROJECT = "citemesh"


def closure(name: str, extras: frozenset[str]) -> dict[str, Distribution]:
    """Every installed distribution that `name[extras]` brings, by normalised name.

    A requirement for another platform or Python is left out.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(canonicalize_name(name), extras)]
    while waiting:
        key = waiting.pop()
        if key in seen:
            continue
        seen.add(key)
        found[key[0]] = installed = distribution(key[0])
        for text in installed.requires or ():
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in (*key[1], "")):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found


def declared() -> Iterator[Requirement]:
    """The requirements that pyproject.toml itself states."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for texts in (project["dependencies"], *project["optional-dependencies"].values()):
        yield from (Requirement(text) for text in texts)


def is_affected(version: Version, advisory: Mapping[str, str]) -> bool:
    """Whether a release has the defect."""
    if "broken" in advisory:
        return version >= Version(advisory["broken"])
    return version < Version(advisory["fixed"])


def lower_bound(requirement: Requirement) -> Version | None:
    """The oldest release a requirement allows; None when it does not say."""
    bounds = [Version(s.version) for s in requirement.specifier if s.operator in (">=", "==")]
    return max(bounds, default=None)


def known_defects(packages: Mapping[str, Distribution], rules: Mapping[str, Any]) -> Iterator[str]:
    """Installed or allowed releases with an advisory."""
    allowed = {canonicalize_name(r.name): lower_bound(r) for r in declared()}
    for advisory in rules["advisory"]:
        name = canonicalize_name(advisory["package"])
        installed = packages.get(name)
        if installed and is_affected(Version(installed.version), advisory):
            yield f"{name} {installed.version} is installed: {advisory['id']}"
        oldest = allowed.get(name)
        if oldest and is_affected(oldest, advisory):
            yield f"{name} {oldest} is allowed by pyproject.toml: {advisory['id']}"


def unbounded() -> Iterator[str]:
    """Requirements that the next major release could break or an old one spoil."""
    for requirement in declared():
        operators = {specifier.operator for specifier in requirement.specifier}
        is_types = requirement.name.startswith("types-")
        if requirement.name != PROJECT and not ({"<", "=="} & operators or is_types):
            yield f"{requirement} has no upper bound"
        if requirement.name != PROJECT and lower_bound(requirement) is None:
            yield f"{requirement} has no lower bound"


def licence(package: Distribution, read: Mapping[str, str]) -> str:
    """What a distribution says of its licence: SPDX expression, classifiers or free text."""
    metadata = package.metadata
    name = canonicalize_name(package.name)
    if name in read:
        return read[name]
    if "License-Expression" in metadata:
        return metadata["License-Expression"]
    classifiers = [
        value.rpartition("::")[2].strip()
        for value in metadata.get_all("Classifier") or ()
        if value.startswith("License ::") and "DFSG" not in value
    ]
    free_text = (metadata.get_all("License") or [""])[0]
    return " OR ".join(classifiers) or free_text.strip().partition("\n")[0]


def is_allowed(text: str, allowed: list[str]) -> bool:
    """Whether a licence may be used: one side of every OR, both sides of an AND."""

    def known(name: str) -> bool:
        name = name.strip(" ()")
        return any(re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", name) for word in allowed)

    def permissive(name: str) -> bool:
        return known(name) and not re.search(r"\b[AL]?GPL", name)

    return any(
        all(permissive(part) for part in re.split(r"\s+AND\s+", side))
        for side in re.split(r"\s+OR\s+", text)
    )


def unwanted(packages: Mapping[str, Distribution], rules: Mapping[str, Any]) -> Iterator[str]:
    """Packages that are kept out, and licences that are not allowed."""
    forbidden = rules["forbidden"]
    allowed, read = rules["licences"]["allowed"], rules["licences"]["read"]
    for name, package in sorted(packages.items()):
        if name in forbidden:
            yield f"{name} is kept out: {forbidden[name]}"
        if name != PROJECT and not is_allowed(text := licence(package, read), allowed):
            yield f"{name} {package.version} has the licence {text or '(none named)'!r}"


def misfits() -> Iterator[str]:
    """What `pip check` finds."""
    command = [sys.executable, "-m", "pip", "check", "--disable-pip-version-check"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        yield from done.stdout.splitlines()


def main() -> int:
    """Prints every problem; 1 when there is one."""
    rules = tomllib.loads(RULES.read_text("utf-8"))
    try:
        packages = closure(PROJECT, frozenset({"all", "dev"}))
    except PackageNotFoundError as missing:
        print(f"{missing.name} is not installed: pip install -e '.[all,dev]'")
        return 1
    found = [*misfits(), *known_defects(packages, rules), *unbounded(), *unwanted(packages, rules)]
    print("\n".join(found) or f"{len(packages)} distributions, nothing found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
