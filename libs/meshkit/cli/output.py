"""What a command prints: tables for people, JSON for programs.

Text that comes from documents is stripped of control characters first: a document must not be
able to drive somebody's terminal.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: object) -> str:
    """The text without control characters; line ends and tabs stay."""
    return CONTROL.sub("", str(text))


def shorten(text: str, length: int) -> str:
    """One line of at most `length` characters."""
    line = " ".join(clean(text).split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def print_json(content: Any) -> None:
    """One JSON value, indented."""
    print(json.dumps(content, indent=2, ensure_ascii=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table; a cell may be any value, `None` is empty."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(*columns, box=box.SIMPLE, pad_edge=False)
    for row in rows:
        grid.add_row(*(Text("" if cell is None else clean(cell)) for cell in row))
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        # Into a file or another program nothing is cut to the width of a screen.
        console = Console(width=200)
    console.print(grid)


def note(line: str) -> None:
    """A remark beside the result: on standard error, so that the result can be piped."""
    print(line, file=sys.stderr, flush=True)
