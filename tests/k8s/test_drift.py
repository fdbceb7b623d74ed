"""What is made from something else is found when it is old."""

from __future__ import annotations

from pathlib import Path

from tools.k8s import render
from tools.k8s.facts import CHART, files


def test_the_derived_files_of_the_chart_are_current() -> None:
    assert render.stale(files(), (CHART / "files",)) == []


def test_a_file_that_is_missing_other_or_left_over_is_stale(tmp_path: Path) -> None:
    current, other, missing, left = (
        tmp_path / f"{name}.yaml" for name in ("current", "other", "missing", "left")
    )
    current.write_text("a: 1\n")
    other.write_text("a: 1\n")
    left.write_text("a: 1\n")
    wanted = {current: "a: 1\n", other: "a: 2\n", missing: "a: 3\n"}
    assert render.stale(wanted, (tmp_path,)) == sorted([other, missing, left])
    render.write(wanted, (tmp_path,))
    assert render.stale(wanted, (tmp_path,)) == []
    assert not left.exists()
