"""Recognised lines put in the order a person reads them; pure.

Tesseract takes a table's columns for columns of prose when they stand far
apart: labels in one block, figures in the next. Blocks of figures go back to
the lines they stand beside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

_FIGURES = 0.4
"""Share of digits among the letters and digits of a block of figures."""
_BESIDE = 0.6
"""Share of its lines that must stand beside a line of the other block."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels from the top left corner."""

    left: int
    top: int
    right: int
    bottom: int

    @staticmethod
    def around(boxes: Iterable[Box]) -> Box:
        """The smallest that holds all of them."""
        lefts, tops, rights, bottoms = zip(
            *((box.left, box.top, box.right, box.bottom) for box in boxes), strict=True
        )
        return Box(min(lefts), min(tops), max(rights), max(bottoms))

    def beside(self, other: Box) -> bool:
        """Whether it stands right of `other` and at its height."""
        middle = (self.top + self.bottom) / 2
        return self.left >= other.right and other.top <= middle <= other.bottom


@dataclass(frozen=True, slots=True)
class Line:
    """A line of words, in the block and paragraph that tesseract found it in."""

    block: int
    paragraph: int
    box: Box
    text: str


def arranged(lines: Sequence[Line]) -> str:
    """The page's text: a line each, paragraphs apart by an empty line, rows whole."""
    blocks: dict[int, list[Line]] = {}
    for line in lines:
        blocks.setdefault(line.block, []).append(line)
    merged: list[list[Line]] = []
    for block in blocks.values():
        host = next((known for known in merged if _are_figures_of(block, known)), None)
        if host is None:
            merged.append(block)
        else:
            _join(host, block)
    pieces: list[str] = []
    for block in merged:
        for index, line in enumerate(block):
            apart = index == 0 or line.paragraph != block[index - 1].paragraph
            pieces.append(("\n\n" if apart else "\n") + line.text)
    return "".join(pieces).strip()


def _are_figures_of(block: Sequence[Line], host: Sequence[Line]) -> bool:
    letters = "".join(line.text for line in block)
    counted = sum(char.isalnum() for char in letters)
    digits = sum(char.isdigit() for char in letters)
    if not counted or digits < _FIGURES * counted:
        return False
    rows = sum(any(line.box.beside(label.box) for label in host) for line in block)
    return rows >= _BESIDE * len(block) and rows > 0


def _join(host: list[Line], block: Sequence[Line]) -> None:
    """Appends each line of `block` to the one it stands beside; others go where they stand."""
    for line in block:
        index = next((i for i, label in enumerate(host) if line.box.beside(label.box)), None)
        if index is not None:
            label = host[index]
            host[index] = replace(
                label, box=Box.around([label.box, line.box]), text=f"{label.text} {line.text}"
            )
            continue
        below = next((i for i, label in enumerate(host) if label.box.top > line.box.top), len(host))
        paragraph = host[min(below, len(host) - 1)].paragraph
        host.insert(below, replace(line, paragraph=paragraph))
