"""Going on with an answer whose model failed in the middle. Pure.

What stays is whole: the sentences that were said to their end with their markers. The begun one
is taken back. The next model is asked for what is missing and reads what stands; a model that
begins again nevertheless has its repetitions left out, sentence by sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from services.generation.passages import ends_abbreviation

NOTHING_MORE = "DONE"
"""What a model says when the answer needs nothing more."""

_MARKERS = r"(?:\[\d{1,3}\])+"
_QUOTES = "[\"'”’)\\]]*"
# Cited to its end: "… days. [1]", "… days [1].", or a row "28 euros [1]" with its line's end.
_CITED = re.compile(
    rf"(?:[.!?…]{_QUOTES}\s?|[。！？；][”』」）]*){_MARKERS}(?![\[\d]|\s+[a-zß-ÿ])"
    rf"|{_MARKERS}(?:[.!?…]{_QUOTES}(?!\d|\s+[a-zß-ÿ])|[。！？；]|(?=[ \t]*\n))"
)
# A sentence has ended when something else than its markers follows.
_END = re.compile(
    rf"[.!?…]+{_QUOTES}(?:\s?\[\d{{1,3}}\])*(?=\s+[^\s\[])"
    r"|[。！？；][”』」）]*(?:\[\d{1,3}\])*(?=[^\[\s])|\n+(?=[^\n])"
)
_MARKER = re.compile(r"\[\d{1,3}\]")
_WORD = re.compile(r"\w+")


def whole_sentences(text: str) -> str:
    """The beginning of a text up to the last sentence that was cited to its end."""
    end = 0
    for found in _CITED.finditer(text):
        end = found.end()
    return text[:end]


def sentences(text: str) -> Iterator[str]:
    """The text in sentences with their markers and what follows them; together they are it."""
    start = 0
    for found in _END.finditer(text):
        if not ends_abbreviation(text[start : found.end()]):
            yield text[start : found.end()]
            start = found.end()
    if start < len(text):
        yield text[start:]


class Continuation:
    """Lets through what a model adds to an answer, sentence by sentence, without repetitions.

    Args:
        said: What stands already.
    """

    def __init__(self, said: str) -> None:
        self._seen = {_plain(sentence) for sentence in sentences(said)} | {_plain(NOTHING_MORE)}
        self._joint = "" if said[-1:].isspace() or not said else " "
        self._waiting = ""

    def feed(self, piece: str) -> str:
        """The sentences that the piece completes, as far as they are new."""
        *complete, self._waiting = [*sentences(self._waiting + piece)] or [""]
        return self._new(complete)

    def close(self) -> str:
        """The last sentence, if it is new."""
        waiting, self._waiting = self._waiting, ""
        return self._new([waiting])

    def _new(self, found: list[str]) -> str:
        fresh = "".join(sentence for sentence in found if self._is_new(sentence))
        if not self._joint or not fresh.strip():
            return fresh
        joint, self._joint = self._joint, ""
        return fresh if fresh[0] == "\n" else joint + fresh.lstrip()

    def _is_new(self, sentence: str) -> bool:
        plain = _plain(sentence)
        if plain and plain in self._seen:
            return False
        self._seen.add(plain)
        return True


def _plain(sentence: str) -> str:
    """The words of a sentence, whatever stands between them."""
    return " ".join(_WORD.findall(_MARKER.sub(" ", sentence).casefold()))
