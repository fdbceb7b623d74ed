"""What extraction yields, and the one way it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
HTML = "text/html"
MARKDOWN = "text/markdown"
PLAIN = "text/plain"

HEADING_CHARACTERS = 200
"""Longer headings are cut: they are shown beside hits."""


class FileRefused(Exception):
    """The file cannot become a document; repeating changes nothing.

    Args:
        reason: Stable, in capitals: FILE_EMPTY, FILE_ENCRYPTED, FILE_CORRUPT,
            FILE_TYPE_UNSUPPORTED, FILE_TOO_LARGE, NO_TEXT, EXTRACTION_TIMEOUT or
            EXTRACTION_MEMORY.
        detail: One sentence a person can act on; no text of the document.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class PageSpan:
    """Characters `start` to `end` of the text stand on page `number`, from 1."""

    number: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading at characters `start` to `end`; level 1 is the outermost."""

    start: int
    end: int
    level: int
    title: str


@dataclass(frozen=True, slots=True)
class Extracted:
    """A document as text. All offsets count Unicode code points of `text`."""

    text: str
    pages: tuple[PageSpan, ...] = ()
    """In order; empty for formats without pages."""
    headings: tuple[Heading, ...] = ()
    """In order of `start`."""
    title: str = ""
    """From the file's metadata; empty when it has none worth showing."""
    warnings: tuple[str, ...] = field(default=())
    """Remarks such as `no text on pages 3-4`."""

    def to_json(self) -> dict[str, Any]:
        """As plain values, for the pipe between the processes."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Extracted:
        """The inverse of `to_json`."""
        return Extracted(
            text=values["text"],
            pages=tuple(PageSpan(**page) for page in values["pages"]),
            headings=tuple(Heading(**heading) for heading in values["headings"]),
            title=values["title"],
            warnings=tuple(values["warnings"]),
        )


class TextBuilder:
    """Collects pieces of text and knows the offset of the next one."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.length = 0
        self.headings: list[Heading] = []

    def add(self, text: str) -> int:
        """Appends `text` and returns the offset it starts at."""
        start = self.length
        self._pieces.append(text)
        self.length += len(text)
        return start

    def add_block(self, text: str) -> int:
        """Appends a paragraph, apart from the one before by an empty line."""
        if self.length:
            self.add("\n\n")
        return self.add(text)

    def add_heading(self, title: str, level: int) -> None:
        """Appends a paragraph that is a heading."""
        start = self.add_block(title)
        self.headings.append(Heading(start, self.length, level, title[:HEADING_CHARACTERS]))

    def text(self) -> str:
        """Everything so far."""
        return "".join(self._pieces)
