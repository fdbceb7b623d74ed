"""What extraction yields, and the one way it refuses."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

_OPEN_XML = "application/vnd.openxmlformats-officedocument"
_OPEN_DOCUMENT = "application/vnd.oasis.opendocument"

PDF = "application/pdf"
DOCX = f"{_OPEN_XML}.wordprocessingml.document"
PPTX = f"{_OPEN_XML}.presentationml.presentation"
XLSX = f"{_OPEN_XML}.spreadsheetml.sheet"
XLSB = "application/vnd.ms-excel.sheet.binary.macroenabled.12"
DOC = "application/msword"
PPT = "application/vnd.ms-powerpoint"
XLS = "application/vnd.ms-excel"
ODT = f"{_OPEN_DOCUMENT}.text"
ODS = f"{_OPEN_DOCUMENT}.spreadsheet"
EPUB = "application/epub+zip"
RTF = "application/rtf"
EML = "message/rfc822"
HTML = "text/html"
MARKDOWN = "text/markdown"
CSV = "text/csv"
TSV = "text/tab-separated-values"
PLAIN = "text/plain"
PNG, JPEG, GIF = "image/png", "image/jpeg", "image/gif"
TIFF, BMP, WEBP = "image/tiff", "image/bmp", "image/webp"
IMAGES = frozenset({PNG, JPEG, GIF, TIFF, BMP, WEBP})

ACCEPTED = (
    "PDF, Word, PowerPoint, Excel, OpenDocument, EPUB, RTF, e-mail, HTML, Markdown, CSV,"
    " plain text and images"
)
"""What can be read, for sentences."""

HEADING_CHARACTERS = 200
"""Longer headings are cut: they are shown beside hits."""


class FileRefused(Exception):
    """The file cannot become a document; repeating changes nothing.

    Args:
        reason: Stable, in capitals: FILE_EMPTY, FILE_ENCRYPTED, FILE_CORRUPT,
            FILE_TYPE_UNSUPPORTED, FILE_TOO_LARGE, ARCHIVE_BOMB, NO_TEXT, OCR_UNAVAILABLE,
            EXTRACTION_TIMEOUT, EXTRACTION_MEMORY or FILE_NOT_SCANNED.
        detail: One sentence a person can act on; no text of the document.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Source:
    """A file to read: one on disk, or the bytes of one inside another."""

    content: Path | bytes
    name: str
    """Name it was uploaded or attached under; tells text formats apart."""

    def open(self) -> BinaryIO:
        """Its bytes as a stream."""
        content = self.content
        return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")

    def read(self) -> bytes:
        """All of its bytes."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


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
class Section:
    """Characters `start` to `end` stand on a slide, in a sheet or in an attachment."""

    start: int
    end: int
    name: str
    """`Slide 3`, the sheet's name as a spreadsheet quotes it, or a file's name; none in CSV."""
    first_row: int = 0
    """Row of a sheet that the first line holds, from 1; each line is one row. 0: no sheet."""
    first_column: str = ""
    last_column: str = ""

    def place(self, first_line: int, last_line: int) -> str:
        """How to name these lines of it, counted from 0: `Leave!A2:D5`, `Slide 3`."""
        if not self.first_row:
            return self.name
        top, bottom = self.first_row + first_line, self.first_row + last_line
        cells = f"{self.first_column}{top}:{self.last_column}{bottom}"
        return f"{self.name}!{cells}" if self.name else cells


@dataclass(frozen=True, slots=True)
class Extracted:
    """A document as text. All offsets count Unicode code points of `text`."""

    text: str
    pages: tuple[PageSpan, ...] = ()
    """In order; empty for formats without pages."""
    headings: tuple[Heading, ...] = ()
    """In order of `start`."""
    sections: tuple[Section, ...] = ()
    """In order and apart; empty for formats without slides, sheets or attachments."""
    title: str = ""
    """From the file's metadata; empty when it has none worth showing."""
    media_type: str = ""
    """What the whole file proved to be; an upload sees only its first bytes."""
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
            sections=tuple(Section(**section) for section in values["sections"]),
            title=values["title"],
            media_type=values["media_type"],
            warnings=tuple(values["warnings"]),
        )


class TextBuilder:
    """Collects pieces of text and knows the offset of the next one."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.length = 0
        self.headings: list[Heading] = []
        self.sections: list[Section] = []

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

    def add_item(self, text: str) -> None:
        """Appends an entry of a list, on a line of its own."""
        self.add("\n- " if self.length else "- ")
        self.add(text)

    def text(self) -> str:
        """Everything so far."""
        return "".join(self._pieces)

    def extracted(self, title: str = "", warnings: tuple[str, ...] = ()) -> Extracted:
        """Everything so far as a document without pages."""
        return Extracted(
            text=self.text(),
            headings=tuple(self.headings),
            sections=tuple(self.sections),
            title=title,
            warnings=warnings,
        )
