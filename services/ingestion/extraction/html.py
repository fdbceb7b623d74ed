"""Text of an HTML page: paragraphs, headings, lists, and tables a row per line.

The parser of the standard library is used because it reads any tag soup without
recursion and drops nothing; main-content detection is left for later.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

from services.ingestion.extraction import decoding
from services.ingestion.extraction.model import Extracted, TextBuilder

_CHARSET = re.compile(
    rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_:-]{2,40})""", re.IGNORECASE
)
_SKIPPED = frozenset({"script", "style", "template", "noscript", "svg", "nav", "iframe"})
_BLOCKS = frozenset({
    "p", "div", "section", "article", "header", "footer", "main", "aside", "ul", "ol", "dl",
    "dt", "dd", "li", "blockquote", "figure", "figcaption", "form", "fieldset", "address", "hr",
    "table", "thead", "tbody", "tfoot", "caption", "tr", "pre", "body", "html", "details",
    "summary", "h1", "h2", "h3", "h4", "h5", "h6",
})  # fmt: skip
_SPACE = re.compile(r"[ \t\n\f\r]+")
_LINE_EDGES = re.compile(r" *\n *")


def extract(data: bytes) -> Extracted:
    """The page's text. Scripts, styles and navigation are left out."""
    declared = _CHARSET.search(data[:4096])
    encoding = declared.group(1).decode("ascii") if declared else ""
    parser = _Reader()
    parser.feed(decoding.decode(data, declared=encoding))
    parser.close()
    return parser.result()


class _Reader(HTMLParser):
    """Collects one block at a time and writes it when the next one begins."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._out = TextBuilder()
        self._block: list[str] = []
        self._cells: list[str] | None = None
        self._rows: list[str] = []
        self._tables = 0
        self._skipping: list[str] = []
        self._heading = 0
        self._preformatted = 0
        self._in_title = False
        self._title: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Opens blocks, rows and cells."""
        del attrs
        if tag in _SKIPPED:
            self._skipping.append(tag)
        elif self._skipping:
            return
        elif tag == "title" and not self._title:
            self._in_title = True
        elif tag == "br":
            self._block.append("\n" if self._cells is None else " ")
        elif tag in ("td", "th"):
            self._end_cell()
        elif tag in _BLOCKS:
            self._open_block(tag)

    def _open_block(self, tag: str) -> None:
        if self._cells is not None and tag not in ("tr", "table"):
            self._block.append(" ")  # a cell stays on one line
            return
        self._end_block()
        if tag == "table":
            self._tables += 1
        elif tag == "tr":
            self._end_row()
            self._cells = []
        elif tag == "li":
            self._block.append("- ")
        elif tag == "pre":
            self._preformatted += 1
        elif tag[0] == "h" and tag[1:].isdigit():
            self._heading = int(tag[1:])

    def handle_endtag(self, tag: str) -> None:
        """Closes blocks, rows and cells."""
        if self._skipping:
            # Unclosed elements inside must not swallow the rest of the page.
            if tag in self._skipping:
                del self._skipping[self._skipping.index(tag) :]
            return
        if tag == "title":
            self._in_title = False
        elif tag in ("td", "th"):
            self._end_cell()
        elif tag == "tr":
            self._end_row()
        elif tag == "table":
            self._end_row()
            self._tables = max(0, self._tables - 1)
            if not self._tables:
                self._end_table()
        elif tag in _BLOCKS:
            if self._cells is None:
                self._end_block()
            if tag == "pre":
                self._preformatted = max(0, self._preformatted - 1)

    def handle_data(self, data: str) -> None:
        """Takes text into the open block."""
        if self._in_title:
            self._title.append(data)
        elif not self._skipping:
            self._block.append(data if self._preformatted else _SPACE.sub(" ", data))

    def result(self) -> Extracted:
        """Everything read, after `close`."""
        self._end_row()
        self._end_table()
        self._end_block()
        return Extracted(
            text=self._out.text(),
            headings=tuple(self._out.headings),
            title=_SPACE.sub(" ", "".join(self._title)).strip()[:1024],
        )

    def _take(self) -> str:
        text = "".join(self._block)
        self._block.clear()
        if self._preformatted:
            return text.strip("\n").rstrip()
        return _LINE_EDGES.sub("\n", re.sub(" {2,}", " ", text)).strip()

    def _end_block(self) -> None:
        text = self._take()
        level, self._heading = self._heading, 0
        if not text or text == "-":
            return
        if level:
            self._out.add_heading(_SPACE.sub(" ", text), level)
        elif text.startswith("- ") and self._out.length:
            self._out.add("\n")
            self._out.add(text)
        else:
            self._out.add_block(text)

    def _end_cell(self) -> None:
        text = _SPACE.sub(" ", self._take())
        if self._cells is None:
            self._cells = []
        if text:
            self._cells.append(text)

    def _end_row(self) -> None:
        if self._cells is None:
            return
        self._end_cell()
        if self._cells:
            self._rows.append(" | ".join(self._cells))
        self._cells = None

    def _end_table(self) -> None:
        if self._rows:
            self._out.add_block("\n".join(self._rows))
        self._rows.clear()
