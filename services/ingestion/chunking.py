"""Cuts a text into chunks along its structure, each within a budget of tokens.

A chunk ends at the strongest boundary in the last part of its budget: a heading,
else a page, else a paragraph, else a row or sentence, else a line, else a clause of
a language without spaces, else a word. Sentences are told by the punctuation and
the abbreviations of English, German and Chinese; others mostly share theirs.
The next chunk repeats about a sentence of it, unless a heading begins there.

Pure: no I/O, no clock. Tokens come from a function, so that any tokenizer fits.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from services.ingestion.extraction.model import Extracted, Heading

Tokenize = Callable[[str], Iterable[tuple[int, int]]]
"""Start and end of every token of a text, in characters, in order."""


_CHARACTERS_A_TOKEN = 12
"""At most; ordinary text has four or five."""


@dataclass(frozen=True, slots=True)
class ChunkingPolicy:
    """How large chunks are."""

    tokens: int = 200
    """Tokens a chunk has at most, the tokenizer's special ones not counted."""
    overlap_tokens: int = 30
    """Tokens of the end of a chunk that the next one repeats at most."""
    characters: int = 2400
    """Characters a chunk has at most; text without words would otherwise have no end."""

    def __post_init__(self) -> None:
        if self.tokens < 8 or self.characters < self.tokens:
            raise ValueError("a chunk needs at least 8 tokens and as many characters")
        if not 0 <= self.overlap_tokens <= self.tokens // 2:
            raise ValueError("the overlap must be between 0 and half of the chunk's tokens")

    @classmethod
    def of(cls, tokens: int, overlap_tokens: int) -> ChunkingPolicy:
        """For chunks of so many tokens; an overlap of more than half of them is cut to that."""
        overlap = min(overlap_tokens, tokens // 2)
        return cls(tokens, overlap, tokens * _CHARACTERS_A_TOKEN)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document; `text` is exactly characters `start` to `end` of it."""

    ordinal: int
    start: int
    end: int
    text: str
    token_count: int
    page: int
    """Page it starts on, from 1; 0 for formats without pages."""
    page_end: int
    headings: tuple[str, ...]
    """Headings above it, outermost first."""
    section: str = ""
    """Cells, slide or attachment it begins in, such as `Leave!A2:D5`; empty for other formats."""


# Strengths of boundaries.
_WORD, _CLAUSE, _LINE, _SENTENCE, _PARAGRAPH, _PAGE, _HEADING = range(7)

_WINDOW = {
    _HEADING: 0.25, _PAGE: 0.5, _PARAGRAPH: 0.5, _SENTENCE: 0.4, _LINE: 0.4, _CLAUSE: 0.6,
    _WORD: 0.0,
}  # fmt: skip
"""Share of the budget a chunk must have used before it may end at such a boundary."""
_LAST_SPACE = 0.5
"""Share of a chunk's characters before which no white space is looked for to cut it at."""

_PARAGRAPH_END = re.compile(r"\n[ \t]*\n\s*")
_LINE_END = re.compile(r"\n")
_SENTENCE_END = re.compile(
    r"""[.!?…][)"'’”“»«\]]*[ \t\n]+(?=["'“‘„»«(\[¿¡]*[^\W_a-zß-öø-ÿ])  # a capital or digit follows
        |[。！？；｡][」』”’）》]*\s*                              # Chinese and Japanese
        |[؟۔।॥][ \t\n]+                                       # Arabic, Urdu, Hindi
    """,
    re.VERBOSE,
)
_CLAUSE_END = re.compile(r"[，、：；][」』”’）》]*")
"""Commas of languages without spaces, where words cannot be told apart by white space."""
_ABBREVIATION = re.compile(
    r"""(?:\b(?:
        [A-Z]|Mr|Mrs|Ms|Dr|Prof|St|No|Inc|Corp|Co|Ltd|vs|approx|Figs?|Sec|Vol|pp?|Jan|Feb|Aug|Sept?
        |Oct|Nov|Dec|cf|etc|e\.g|i\.e|a\.m|p\.m|U\.S|Jr|Sr|Gen|Gov|Rev|Est                # English
        |Nr|Abs|Art|Abb|Tab|Kap|Bd|Hrsg|Tel|Str|Mio|Mrd|Std|Min|bzw|usf|ca|vgl|inkl|exkl|ggf|evtl
        |sog|bzgl|zzgl|abzgl|gem|max|mind|Stk|Ziff|Rn|Aufl|geb|gest|Ing|Dipl|Hr|Fr|S|z\.\s?B|d\.\s?h
        |u\.\s?a|o\.\s?ä|i\.\s?d\.\s?R|z\.\s?T|u\.\s?U|s\.\s?[ou]|v\.\s?a|i\.\s?S|a\.\s?D  # German
        )
        |\b(?:am|vom|zum|beim|dem|den|der|des|die|das|im|bis|seit|ab|und|zur|ein|eine[mnrs]?)
          \s\d{1,2}                                                       # am 3. Oktober
        |^\d{1,2}|\n\d{1,2}                                               # 1. Scope
    )\.$""",
    re.VERBOSE,
)
_LONGEST_ABBREVIATION = 12
_ROW = re.compile(r"\||\t|\d[\d,.]*\)?[ \t]+\(?[$€£]?[ \t]*\(?\d|[.!?:;。！？]\s*$")


def chunk(document: Extracted, tokenize: Tokenize, policy: ChunkingPolicy) -> list[Chunk]:
    """Cuts a document.

    Every character that is no white space is in at least one chunk.

    Args:
        document: Text with pages and headings.
        tokenize: The tokenizer of the model that will embed the chunks.
        policy: Sizes.

    Returns:
        Chunks in reading order.
    """
    cutter = _Cutter(document, tokenize, policy)
    return list(cutter.chunks())


def digest(chunks: Sequence[Chunk]) -> str:
    """A fingerprint of where the cuts are: equal for equal text, tokenizer and policy."""
    fingerprint = hashlib.sha256()
    for piece in chunks:
        fingerprint.update(f"{piece.start},{piece.end};".encode())
        fingerprint.update(piece.text.encode("utf-8", "surrogatepass"))
    return fingerprint.hexdigest()


class _Cutter:
    def __init__(self, document: Extracted, tokenize: Tokenize, policy: ChunkingPolicy) -> None:
        self._text = document.text
        self._tokenize = tokenize
        self._policy = policy
        # 8 bytes a token and not 130: a text of 100 MB has 25 million.
        self._starts = array("q", (start for start, _ in tokenize(document.text)))
        boundaries = _boundaries(document)
        self._positions = sorted(boundaries)
        self._strengths = [boundaries[position] for position in self._positions]
        self._places = _Places(document)

    def chunks(self) -> Iterator[Chunk]:
        text, ordinal = self._text, 0
        start, covered = self._skip_space(0), 0
        while start < len(text):
            cut = self._cut(start, covered)
            end = start + len(text[start:cut].rstrip())
            yield Chunk(
                ordinal=ordinal,
                start=start,
                end=end,
                text=text[start:end],
                token_count=self._count(start, end),
                page=self._places.page(start),
                page_end=self._places.page(end - 1),
                headings=self._places.headings(start),
                section=self._places.section(start, end - 1),
            )
            ordinal += 1
            covered = self._skip_space(cut)
            start = covered if covered >= len(text) else self._next_start(start, cut, covered)

    def _cut(self, start: int, covered: int) -> int:
        """Where the chunk that begins at `start` ends; always behind `covered`."""
        policy = self._policy
        first = bisect_left(self._starts, start)
        limit = first + policy.tokens
        reach = self._starts[limit] if limit < len(self._starts) else len(self._text)
        reach = min(reach, start + policy.characters)
        best = self._best_boundary(start, max(start, covered), first, reach)
        if best:
            return self._within_budget(start, best)
        if reach == len(self._text):
            return self._within_budget(start, reach)
        # No boundary at all: the last white space, else between any two characters, which is
        # right for languages without spaces and all there is for a word without end.
        floor = max(covered, start + int((reach - start) * _LAST_SPACE))
        space = next((at for at in range(reach, floor, -1) if self._text[at - 1].isspace()), 0)
        return self._within_budget(start, space or reach)

    def _best_boundary(self, start: int, floor: int, first: int, reach: int) -> int:
        """The strongest boundary in `(floor, reach]` that uses enough of the budget, or 0.

        Among equals the last wins, but of headings the first: a section that is
        large enough stands for itself.
        """
        policy = self._policy
        at_end = reach == len(self._text)
        best, best_strength = (reach, _HEADING - 0.5) if at_end else (0, -1.0)
        low = bisect_right(self._positions, floor)
        high = bisect_right(self._positions, reach)
        for index in range(low, high):
            position, strength = self._positions[index], self._strengths[index]
            used = bisect_left(self._starts, position) - first
            share = _WINDOW[strength]
            if used < share * policy.tokens and position - start < share * policy.characters:
                continue
            if strength == _HEADING:
                # What stands between a page's top and its first heading belongs to the page.
                near = used + first - bisect_left(self._starts, best) <= policy.overlap_tokens
                return best if best_strength == _PAGE and near else position
            if strength >= best_strength:
                best, best_strength = position, strength
        return best

    def _within_budget(self, start: int, cut: int) -> int:
        """Moves `cut` back until the chunk fits.

        Tokens were counted over the whole text; only a chunk that begins or ends
        inside a word can have more of them when it stands alone.
        """
        if self._between_words(start) and self._between_words(cut):
            return cut
        while cut - start > 1 and self._count(start, cut) > self._policy.tokens:
            cut = start + (cut - start) * 3 // 4
        return cut

    def _count(self, start: int, end: int) -> int:
        if self._between_words(start) and self._between_words(end):
            return bisect_left(self._starts, end) - bisect_left(self._starts, start)
        return sum(1 for _ in self._tokenize(self._text[start:end]))

    def _between_words(self, position: int) -> bool:
        text = self._text
        if position <= 0 or position >= len(text):
            return True
        return text[position - 1].isspace() or text[position].isspace()

    def _next_start(self, start: int, cut: int, covered: int) -> int:
        """Where the next chunk begins: before `covered` by up to the overlap."""
        if self._strength(covered) == _HEADING or not self._policy.overlap_tokens:
            return covered
        earliest = bisect_left(self._starts, cut) - self._policy.overlap_tokens
        if earliest <= 0:
            return covered
        floor = max(start + 1, self._starts[earliest], cut - self._policy.characters // 4)
        for index in range(bisect_left(self._positions, floor), len(self._positions)):
            position = self._positions[index]
            if position >= cut:
                break
            if self._strengths[index] >= _LINE and self._between_words(position):
                return self._skip_space(position)
        return covered

    def _strength(self, position: int) -> int:
        index = bisect_left(self._positions, position)
        found = index < len(self._positions) and self._positions[index] == position
        return self._strengths[index] if found else _WORD

    def _skip_space(self, position: int) -> int:
        text = self._text
        while position < len(text) and text[position].isspace():
            position += 1
        return position


class _Places:
    """Answers on which page, under which headings and in which cells a character stands."""

    def __init__(self, document: Extracted) -> None:
        self._text = document.text
        self._pages = [page for page in document.pages if page.end > page.start]
        self._page_starts = [page.start for page in self._pages]
        self._sections = document.sections
        self._section_starts = [section.start for section in self._sections]
        self._heading_starts = [heading.start for heading in document.headings]
        self._paths: list[tuple[str, ...]] = []
        stack: list[Heading] = []
        for heading in document.headings:
            while stack and stack[-1].level >= heading.level:
                stack.pop()
            stack.append(heading)
            self._paths.append(tuple(above.title for above in stack))
        self._counted = (0, 0, 0)
        """Which section, up to where in it, and how many line ends were counted."""

    def page(self, position: int) -> int:
        """The page's number; 0 without pages."""
        if not self._pages:
            return 0
        return self._pages[max(0, bisect_right(self._page_starts, position) - 1)].number

    def headings(self, position: int) -> tuple[str, ...]:
        """Headings in force, outermost first, one that begins here included."""
        index = bisect_right(self._heading_starts, position) - 1
        return self._paths[index] if index >= 0 else ()

    def section(self, first: int, last: int) -> str:
        """What the characters stand in: several tables of one sheet are one range of rows."""
        index = bisect_right(self._section_starts, first) - 1
        if index < 0 or first >= self._sections[index].end:
            index += 1  # between two, such as in a sheet's name: the one that follows
        if index >= len(self._sections) or self._sections[index].start > last:
            return ""
        section = self._sections[index]
        top = self._line(index, max(first, section.start))
        bottom = self._line(index, min(last, section.end - 1))
        end = bisect_right(self._section_starts, last) - 1
        while self._sections[end].name != section.name:
            end -= 1  # small sheets share a chunk; it is found under the first
        if section.first_row and end > index:
            return self._range(index, top, end, last)
        return section.place(top, bottom)

    def _range(self, index: int, top: int, end: int, last: int) -> str:
        first, final = self._sections[index], self._sections[end]
        bottom = self._line(end, min(last, final.end - 1))
        # Column names sort by length first: Z before AA.
        columns = [
            (len(name), name)
            for part in self._sections[index : end + 1]
            for name in (part.first_column, part.last_column)
        ]
        return replace(first, first_column=min(columns)[1], last_column=max(columns)[1]).place(
            top, final.first_row - first.first_row + bottom
        )

    def _line(self, index: int, position: int) -> int:
        """Line of a section a character is on, from 0. Asked in order, it counts each line once."""
        section = self._sections[index]
        known, upto, count = self._counted
        if known != index or not section.start <= upto <= position:
            upto, count = section.start, 0
        count += self._text.count("\n", upto, position)
        self._counted = (index, position, count)
        return count


def _boundaries(document: Extracted) -> dict[int, int]:
    """Positions where a chunk may end and begin, with their strength."""
    text = document.text
    found: dict[int, int] = {}

    def mark(position: int, strength: int) -> None:
        if 0 < position < len(text) and found.get(position, -1) < strength:
            found[position] = strength

    line_start = 0
    for match in _LINE_END.finditer(text):
        row = _ROW.search(text, line_start, match.start())
        mark(match.end(), _SENTENCE if row else _LINE)
        line_start = match.end()
    for match in _CLAUSE_END.finditer(text):
        mark(match.end(), _CLAUSE)
    for match in _SENTENCE_END.finditer(text):
        if not _ABBREVIATION.search(
            text, max(0, match.start() - _LONGEST_ABBREVIATION), match.start() + 1
        ):
            mark(match.end(), _SENTENCE)
    for match in _PARAGRAPH_END.finditer(text):
        mark(match.end(), _PARAGRAPH)
    for page in document.pages:
        start = page.start
        while start < page.end and text[start].isspace():
            start += 1
        mark(start, _PAGE)
    for heading in document.headings:
        mark(heading.start, _HEADING)
    return found
