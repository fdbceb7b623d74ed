"""Text of an HTML page: paragraphs, headings, lists, and tables a row per line.

The parser of the standard library is used because it reads any tag soup without
recursion and drops nothing. What is not content is dropped only where the page
itself says so: scripts, navigation and what is hidden always, all outside of
`main` or the heads, feet and asides around `article` when those hold most of the
text. A guess by link density would lose paragraphs, and a lost paragraph cannot
be found.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
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
_LANDMARKS = {"main": "main", "article": "article"} | dict.fromkeys(
    ("header", "footer", "aside"), "aside"
)
_ROLES = {
    "main": "main", "article": "article", "banner": "aside", "contentinfo": "aside",
    "complementary": "aside",
}  # fmt: skip
_MOST = 0.5
"""Share of the text that `main` or the articles must hold for the rest to be dropped."""
_VOID = frozenset({
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track",
    "wbr",
})  # fmt: skip
_HIDDEN = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
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


@dataclass(frozen=True, slots=True)
class _Block:
    """A paragraph, a table, or a heading where it has a level."""

    text: str
    level: int
    place: str
    """`main`, `article`, `aside`, or empty."""


class _Reader(HTMLParser):
    """Collects one block at a time and keeps it when the next one begins."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._blocks: list[_Block] = []
        self._landmarks: list[tuple[str, str]] = []
        """Tags that are open and what they say of their content."""
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
        if tag in _SKIPPED or tag in self._skipping[:1]:
            self._skipping.append(tag)
            return
        if self._skipping:
            return
        values = {name: value or "" for name, value in attrs}
        if tag not in _VOID and _is_hidden(values):
            self._end_block_outside_of_tables()
            self._skipping.append(tag)
            return
        landmark = _ROLES.get(values.get("role", ""), _LANDMARKS.get(tag, ""))
        if landmark:
            self._end_block_outside_of_tables()
            self._landmarks.append((tag, landmark))
        if tag == "title" and not self._title:
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
                last = len(self._skipping) - 1 - self._skipping[::-1].index(tag)
                del self._skipping[last:]
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
        self._leave(tag)

    def _leave(self, tag: str) -> None:
        """Closes the landmark that the tag opened, and what was left open inside of it."""
        open_tags = [opened for opened, _ in self._landmarks]
        if tag in open_tags:
            self._end_block_outside_of_tables()
            last = len(open_tags) - 1 - open_tags[::-1].index(tag)
            del self._landmarks[last:]

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
        out = TextBuilder()
        for block in self._kept():
            if block.level:
                out.add_heading(block.text, block.level)
            elif block.text.startswith("- ") and out.length:
                out.add_item(block.text[2:])
            else:
                out.add_block(block.text)
        return out.extracted(title=_SPACE.sub(" ", "".join(self._title)).strip()[:1024])

    def _kept(self) -> list[_Block]:
        """The blocks that are content, as far as the page says and most of its text agrees."""
        characters = {"": 0, "main": 0, "article": 0, "aside": 0}
        for block in self._blocks:
            characters[block.place] += len(block.text)
        most = _MOST * sum(characters.values())
        if characters["main"] > most:
            return [block for block in self._blocks if block.place == "main"]
        if characters["article"] + characters["main"] > most:
            return [block for block in self._blocks if block.place != "aside"]
        return self._blocks

    def _place(self) -> str:
        """The outermost landmark that says something is content, else the outermost."""
        found = [landmark for _, landmark in self._landmarks]
        return next((name for name in ("main", "article") if name in found), "".join(found[:1]))

    def _keep(self, text: str, level: int = 0) -> None:
        self._blocks.append(_Block(text, level, self._place()))

    def _end_block_outside_of_tables(self) -> None:
        if self._cells is None:
            self._end_block()

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
        self._keep(_SPACE.sub(" ", text) if level else text, level)

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
            self._keep("\n".join(self._rows))
        self._rows.clear()


def _is_hidden(values: dict[str, str]) -> bool:
    """Whether a browser shows nothing of the element; text can hide there that nobody wrote."""
    return "hidden" in values or bool(_HIDDEN.search(values.get("style", "")))
