"""Sentences of an answer, with the citation markers that belong to each."""

import re
from dataclasses import dataclass

MARKER = re.compile(r"\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")
# A full stop behind these ends no sentence.
_ABBREVIATED = (
    "inc corp co ltd llc plc no nos vs etc approx e.g i.e cf fig sec art mr mrs ms dr prof st jr sr"
    " u.s u.k jan feb mar apr jun jul aug sep sept oct nov dec dept est vol pp p ed al bzw z.b d.h"
    " nr abs bspw ca"
)
_ABBREVIATIONS = frozenset(_ABBREVIATED.split())
_END = re.compile(r"[.!?…]+[\"'”’)]*(?=\s|$|\[\d)|[。！？]|\n+")
_LAST_WORD = re.compile(r"([A-Za-zÀ-ɏ][A-Za-zÀ-ɏ.]*)\.[\"'”’)]*$")
_MARKERS_BEHIND = re.compile(r"(?:\s*\[\d{1,3}(?:\s*,\s*\d{1,3})*\])+[.,;]?")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of an answer."""

    start: int
    """First character in the answer, in code points."""
    end: int
    """Character after the last one, markers included."""
    text: str
    """The words without markers."""
    markers: tuple[str, ...]
    """Markers written in the sentence or right behind it."""
    covering: tuple[str, ...]
    """Its own markers, else those of the next marked sentence of its paragraph: a citation behind
    several sentences speaks for all of them."""


def split(answer: str) -> list[Sentence]:
    """Sentences with at least one letter or digit, in order."""
    spans = _spans(answer)
    found: list[Sentence] = []
    covering: tuple[str, ...] = ()
    following = len(answer)
    for start, end in reversed(spans):
        piece = answer[start:end]
        if "\n" in answer[end:following]:
            covering = ()
        markers = tuple(
            dict.fromkeys(
                marker.strip() for group in MARKER.findall(piece) for marker in group.split(",")
            )
        )
        covering = markers or covering
        following = start
        text = MARKER.sub("", piece).strip()
        if any(character.isalnum() for character in text):
            found.append(Sentence(start, end, text, markers, covering))
    return found[::-1]


def _spans(answer: str) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    start = 0
    position = 0
    while (match := _END.search(answer, position)) is not None:
        end = position = match.end()
        if match.group().startswith(".") and _is_abbreviation(answer[start:end]):
            continue
        behind = _MARKERS_BEHIND.match(answer, end)
        if behind is not None and not match.group().startswith("\n"):
            end = position = behind.end()
        spans.append(_trimmed(answer, start, end))
        start = end
    spans.append(_trimmed(answer, start, len(answer)))
    return [(start, end) for start, end in spans if end > start]


def _is_abbreviation(text: str) -> bool:
    word = _LAST_WORD.search(text)
    if word is None:
        return False
    last = word.group(1).lower()
    return last in _ABBREVIATIONS or len(last) == 1


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
