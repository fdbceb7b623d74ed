"""The checks of `make check` find what they are for."""

from __future__ import annotations

import ast
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from packaging.version import Version

from tools import dependencies, errors, secret_scan, tree
from tools.configuration import missing_descriptions
from tools.page import keep


def written(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(
    "line",
    [
        "index = https://" + "pypi" + ".org/simple",
        '"resolved": "https://registry.' + "npmjs" + '.org/left-pad"',
        "open('/" + "home/ann/data.csv')",
        "file:///" + "work/main/.citemesh",
    ],
)
def test_a_registry_or_a_path_of_one_machine_is_found(line: str) -> None:
    assert list(tree.problems(Path("notes.md"), line))


def test_an_ordinary_file_has_no_problem() -> None:
    text = '"""What it is for."""\n\nHOME = "~/papers"\nURL = "https://example.org/home"\n'
    assert list(tree.problems(Path("libs/meshkit/ids.py"), text)) == []


def test_a_module_that_does_not_say_what_it_is_for_is_found() -> None:
    assert list(tree.problems(Path("libs/meshkit/ids.py"), "import os\n"))


def test_a_credential_is_found_in_code_and_in_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secret_scan, "ROOT", tmp_path)
    (tmp_path / "tests").mkdir()
    token = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
    written(tmp_path / "settings.py", f'TOKEN = "{token}"\n')
    written(tmp_path / "tests" / "test_it.py", f'TOKEN = "{token}"\npassword = "hunter22"\n')
    assert [found.kind for found in secret_scan.scan(Path("settings.py"))].count("GitHub Token")
    kinds = [found.kind for found in secret_scan.scan(Path("tests/test_it.py"))]
    assert kinds == ["GitHub Token"]


def test_a_checksum_is_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_scan, "ROOT", tmp_path)
    digits = "68807e3ff2abb83cdd708d8243fd39c5" * 2
    written(tmp_path / "manifest.toml", f'sha256 = "{digits}"\nother = "{digits[:40]}"\n')
    assert [found.line for found in secret_scan.scan(Path("manifest.toml"))] == [2]


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 OR GPL-3.0-only", True),
        ("BSD-3-Clause AND MIT", True),
        ("BSD-3-Clause AND AGPL-3.0", False),
        ("GNU Affero General Public License v3", False),
        ("LGPL-2.1", False),
        ("", False),
    ],
)
def test_only_permissive_licences_pass(licence: str, allowed: bool) -> None:
    words = ["Apache-2.0", "BSD-3-Clause", "MIT"]
    assert dependencies.is_allowed(licence, words) is allowed


def test_an_old_or_a_broken_release_is_affected() -> None:
    assert dependencies.is_affected(Version("0.15"), {"fixed": "0.16.0"})
    assert not dependencies.is_affected(Version("0.16.0"), {"fixed": "0.16.0"})
    assert dependencies.is_affected(Version("1.30.1"), {"broken": "1.30"})


def test_an_installed_release_with_an_advisory_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "h11-0.9.dist-info"
    folder.mkdir()
    written(folder / "METADATA", "Metadata-Version: 2.1\nName: h11\nVersion: 0.9\n")
    rules = {"advisory": [{"package": "h11", "fixed": "0.16.0", "id": "CVE-2025-43859"}]}
    (found,) = dependencies.known_defects({"h11": PathDistribution(folder)}, rules)
    assert "CVE-2025-43859" in found


def reasons(source: str) -> tuple[list[tuple[str, str, str]], list[str]]:
    parsed = ast.parse(source)
    module = errors.Module(errors.ROOT / "gateway" / "example.py", parsed)
    module.visit(parsed)
    return module.found, module.unread


def test_a_reason_is_found_where_it_is_written() -> None:
    found, unread = reasons('raise NotFound("KEY_NOT_FOUND", f"There is no key {key}.")')
    assert found == [("NotFound", "KEY_NOT_FOUND", "There is no key {…}.")]
    assert unread == []


def test_a_reason_given_to_a_function_is_found() -> None:
    source = """
def refuse(reason):
    raise LimitExceeded(reason, "Too often.")
refuse("KEY_LIMIT_EXCEEDED")
"""
    assert [name for _, name, _ in reasons(source)[0]] == ["KEY_LIMIT_EXCEEDED"]


def test_a_reason_that_cannot_be_read_is_reported() -> None:
    assert reasons("raise Internal(compute(), 'It broke.')")[1]


def test_every_setting_says_what_it_is_for() -> None:
    assert missing_descriptions() == []


def test_a_page_that_is_not_current_fails_until_it_is_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    assert keep(page, "new\n", [], write=False) == 1
    assert keep(page, "new\n", [], write=True) == 0
    assert keep(page, "new\n", [], write=False) == 0
    assert keep(page, "new\n", ["a problem"], write=False) == 1
