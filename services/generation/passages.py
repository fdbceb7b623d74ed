"""Found passages, and the units of their text that can answer: sentences and rows of tables.

Pure. A unit is a slice of the source, so that what is quoted is verbatim.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Location:
    """Where a chunk stands in its document, as in the contract."""

    page: int = 0
    """Page it starts on, from 1; 0 for formats without pages."""
    page_end: int = 0
    """Page it ends on."""
    headings: tuple[str, ...] = ()
    """Headings above it, outermost first."""
    start: int = 0
    """First character in the extracted text, in code points."""
    end: int = 0
    """Character after the last one."""
    section: str = ""
    """Sheet, slide or section name."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk as retrieval stores it."""

    chunk_id: str
    document_id: str
    version: int
    ordinal: int
    title: str
    """Title of the document."""
    text: str
    location: Location
    flags: tuple[str, ...] = ()
    """Injection findings; a chunk with any is never put before a model."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk that was found, with the marker an answer cites it by."""

    marker: str
    chunk: Chunk
    score: float
    """Score the passages are ordered by."""
    dense_rank: int = 0
    """Rank in the dense list, from 1; 0 when not in it."""
    dense_similarity: float = 0.0
    """Cosine; meaningful with a dense rank."""
    space: str = ""
    """Embedding space of the search; empty when it went by words only."""
    lexical_rank: int = 0
    """Rank in the lexical list, from 1; 0 when not in it."""
    rerank_score: float | None = None
    """Cross-encoder probability; None when not reranked."""
    beside: bool = False
    """Not found itself: it stands beside a hit."""
    facet: "Facet | None" = None
    """Which part of the question it was searched for; None when for the whole of it."""


@dataclass(frozen=True, slots=True)
class Facet:
    """One part of a question: some documents, and what is asked of them."""

    number: int
    """From 1, in the order the answer should follow."""
    question: str
    """The question without the words that only say which documents are meant."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A sentence or a row: characters `start` to `end` of a text."""

    start: int
    end: int
    is_row: bool

    def of(self, text: str) -> str:
        """The verbatim characters."""
        return text[self.start : self.end]


_BLOCK = re.compile(r"(?:[^\n]|\n(?![ \t]*\n))+")
_LINE = re.compile(r"[^\n]+")
_FIGURE = re.compile(r"^[($€£¥+\-–—]*\d[\d.,]*[%)]*$|^[—–-]$|^[$€£¥%]$")
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s+[\"'“‘(\[]?[^\W_a-zß-ÿ])|[。！？；][”」』）]*")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|No|Nr|Inc|Corp|Co|Ltd|vs|approx|Fig|Sec|Art|Abs|Jr|Sr"
    r"|bzw|usw|ca|Chr|[a-z]|e\.g|i\.e|z\.B|d\.h|U\.S|U\.K|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.$"
)
_WRAPPED = 0.6
"""A line at least this share of its block's longest one was broken by the page's width."""


def units(text: str) -> list[Unit]:
    """Sentences and rows of `text` in reading order.

    Lines that a page's width broke are put together; rows of a table, headings and list items
    stand for themselves.
    """
    found: list[Unit] = []
    for block in _BLOCK.finditer(text):
        lines = [(match.start(), match.end()) for match in _LINE.finditer(text, *block.span())]
        widest = max((end - start for start, end in lines), default=0)
        run: tuple[int, int] | None = None
        for index, (start, end) in enumerate(lines):
            if _is_row(text[start:end]):
                found += _sentences(text, run)
                run = None
                found += _trimmed(text, start, end, is_row=True)
                continue
            run = (run[0] if run else start, end)
            following = text[slice(*lines[index + 1])] if index + 1 < len(lines) else ""
            if not _goes_on(text[start:end], following, widest):
                found += _sentences(text, run)
                run = None
        found += _sentences(text, run)
    return found


def ends_abbreviation(text: str) -> bool:
    """Whether the full stop at a text's end belongs to an abbreviation."""
    return _ABBREVIATION.search(text[-12:]) is not None


def _is_row(line: str) -> bool:
    """Whether a line is a row of figures or cells."""
    stripped = line.strip()
    if "\t" in stripped or stripped.count("|") >= 2:
        return True
    words = stripped.split()
    figures = sum(_FIGURE.match(word) is not None for word in words)
    return figures >= 2 and figures * 3 >= len(words) and not stripped.endswith((".", ";"))


def _goes_on(line: str, following: str, widest: int) -> bool:
    """Whether a sentence may run from one line into the next."""
    line, following = line.strip(), following.strip()
    if not following or re.match(r"[•▪◦*\-–]\s|\(?\d{1,2}[.)]\s", following):
        return False
    return following[0].islower() or len(line) >= _WRAPPED * widest


def _sentences(text: str, span: tuple[int, int] | None) -> list[Unit]:
    if span is None:
        return []
    start, stop = span
    found: list[Unit] = []
    for match in _SENTENCE_END.finditer(text, start, stop):
        end = match.end()
        if match.group().startswith(".") and ends_abbreviation(text[max(start, end - 12) : end]):
            continue
        found += _trimmed(text, start, end, is_row=False)
        start = end
    return found + _trimmed(text, start, stop, is_row=False)


def _trimmed(text: str, start: int, end: int, *, is_row: bool) -> list[Unit]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return [Unit(start, end, is_row)] if end > start else []
