"""The order in which a person reads the lines of a page, and which of them are one; pure.

Content streams are mostly in reading order, and then nothing is changed. Where a
later part of the stream stands above an earlier one, the page's blocks are sorted
by the two rules of Breuel, "High Performance Document Layout Analysis" (2003):
what is above comes first where the two overlap from left to right, and what is
left comes first unless something wide lies between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

_MIDDLE = 0.35
"""Height of the middle of small letters above the baseline, in sizes."""
_ROW = (-0.1, 0.9)
"""From where to where, in sizes of the larger, the middle of the smaller piece of a row lies."""
_BLOCK_GAP = 2.5
"""Distance between lines, in usual distances, above which a block ends."""
_LARGEST_BLOCK_GAP = 3.0
"""The same in sizes: on a form the usual distance is large."""
_WEIGHT = 0.1
"""Share of a page's text that a block out of order must hold; footnote marks do not count."""
_MOST_BLOCKS = 50
"""Pages of more are tables, whose rows must stay as they come."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text; points from the page's bottom left corner.

    The baselines differ when pdfium has joined lines at a hyphen.
    """

    text: str
    baseline: float
    last_baseline: float
    size: float
    weight: int
    left: float = 0.0
    right: float = 0.0
    start: int = 0
    """Offset in the document's text, once it is written."""


@dataclass(slots=True)
class _Block:
    lines: list[Line]
    left: float
    right: float
    top: float
    bottom: float

    def take(self, line: Line) -> None:
        self.lines.append(line)
        self.left, self.right = min(self.left, line.left), max(self.right, line.right)
        self.top = max(self.top, line.baseline + line.size)
        self.bottom = min(self.bottom, line.last_baseline)

    @property
    def characters(self) -> int:
        """How much text it holds."""
        return sum(len(line.text) for line in self.lines)

    def spans(self, other: _Block) -> bool:
        """Whether the two overlap from left to right."""
        return self.left < other.right and other.left < self.right


def usual_distance(lines: Sequence[Line]) -> float:
    """The median distance of a line from the one before, 0 for a single line."""
    drops = [above.last_baseline - below.baseline for above, below in pairwise(lines)]
    return median([drop for drop in drops if drop > 1] or [0.0])


def in_reading_order(lines: Sequence[Line]) -> list[Line]:
    """The lines of a page, pieces of one row joined, in the order they are read."""
    rows = _rows(lines)
    blocks = _blocks(rows)
    if len(blocks) > _MOST_BLOCKS or not _contradicts(blocks):
        return rows
    return [line for block in _sorted(blocks) for line in block.lines]


def _rows(lines: Iterable[Line]) -> list[Line]:
    """Joins a piece to the one before it on the same row: raised figures break rows apart."""
    rows: list[Line] = []
    for line in lines:
        before = rows[-1] if rows else None
        if before and _continues(before, line):
            rows[-1] = replace(
                before,
                text=f"{before.text} {line.text}",
                right=max(before.right, line.right),
                size=max(before.size, line.size),
            )
        else:
            rows.append(line)
    return rows


def _continues(before: Line, line: Line) -> bool:
    if before.baseline != before.last_baseline or before.text[-1] in "\x02\ufffe":
        return False
    large, small = (before, line) if before.size >= line.size else (line, before)
    middle = small.baseline + _MIDDLE * small.size - large.baseline
    beside = line.left >= before.right - 0.2 * large.size
    return beside and _ROW[0] * large.size <= middle <= _ROW[1] * large.size


def _blocks(lines: Sequence[Line]) -> list[_Block]:
    usual = usual_distance(lines)
    blocks: list[_Block] = []
    for line in lines:
        top, bottom = line.baseline + line.size, line.last_baseline
        block = _Block([line], line.left, line.right, top, bottom)
        if blocks:
            last = blocks[-1]
            drop = last.lines[-1].last_baseline - line.baseline
            most = min(_BLOCK_GAP * usual, _LARGEST_BLOCK_GAP * max(1.0, line.size))
            if last.spans(block) and 0 <= drop <= most:
                last.take(line)
                continue
        blocks.append(block)
    return blocks


def _contradicts(blocks: Sequence[_Block]) -> bool:
    """Whether a later block of weight stands above an earlier one and over the same columns."""
    least = _WEIGHT * sum(block.characters for block in blocks)
    return any(
        later.bottom >= earlier.top and later.spans(earlier)
        for index, later in enumerate(blocks)
        if later.characters >= least
        for earlier in blocks[:index]
    )


def _sorted(blocks: Sequence[_Block]) -> list[_Block]:
    before = {
        (a, b)
        for a, first in enumerate(blocks)
        for b, second in enumerate(blocks)
        if a != b and _precedes(first, second, blocks)
    }
    left = list(range(len(blocks)))
    order: list[_Block] = []
    while left:
        # In a circle nothing is first: the stream's order decides.
        chosen = next(
            (b for b in left if not any((a, b) in before for a in left if a != b)), left[0]
        )
        left.remove(chosen)
        order.append(blocks[chosen])
    return order


def _precedes(first: _Block, second: _Block, blocks: Sequence[_Block]) -> bool:
    if first.spans(second):
        return first.bottom > second.bottom
    if first.right > second.left:
        return False
    top, bottom = max(first.top, second.top), min(first.bottom, second.bottom)
    return not any(
        third.spans(first) and third.spans(second) and bottom < third.bottom and third.top < top
        for third in blocks
    )
