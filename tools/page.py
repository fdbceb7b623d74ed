"""Pages of docs/ that are made from code: written, or compared with what is there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Table:
    """A Markdown table."""

    columns: Sequence[str]
    rows: Iterable[Sequence[str]]

    def text(self) -> str:
        """The table, a line a row."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
        return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


def keep(path: Path, text: str, problems: Sequence[str], *, write: bool) -> int:
    """Writes a page, or prints how it differs; also prints problems found on the way.

    Returns:
        The exit code: 1 for a problem, or for a page that is not current.
    """
    for problem in problems:
        print(problem)
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return 1 if problems else 0
    current = path.read_text("utf-8") if path.exists() else ""
    if current != text:
        lines = current.splitlines(), text.splitlines()
        print("\n".join(difflib.unified_diff(*lines, str(path.name), "as it should be", "", "", 1)))
        print(f"{path.name} is not current: make docs")
    return 1 if problems or current != text else 0
