"""How text becomes words, the same way for both back ends and for documents and queries.

A word is a run of letters, digits and marks. Scripts without spaces between words
(Chinese, Japanese, Korean, Thai, Lao, Khmer, Burmese) become overlapping pairs of
characters instead: a tokenizer that splits at spaces takes a Chinese sentence for
one word (nDCG@10 on XQuAD zh .114 against .961). What a stemmer makes of a word is
the back end's; which stemmer, is decided here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from services.retrieval.lexical import LexicalVersion
from services.retrieval.lexical.language import (
    OTHER,
    STOP_WORDS,
    by_function_words,
    declared,
    language_of,
)

TOKEN = r"[\p{L}\p{N}\p{M}]+"  # noqa: S105 - a pattern, in the syntax of Rust and Java
"""A word, for the tokenizers of both back ends; `words` finds the same in Python."""
LONGEST_WORD = 64
"""Characters; longer ones are keys, hashes and broken text, and are left out."""
MAX_QUERY_WORDS = 48
"""Terms of a query that count; the rarest where there are more."""
TITLE_BOOST = 0.2
"""Weight of a word in the title besides its place among the words. Measured on the
training queries of SciFact: none .699, .2 .705, .4 .701, .6 .694 (nDCG@10)."""
AROUND = 2
"""Chunks before and after one whose words count for it too. A claim and what it is about
often stand in different chunks of one text."""
AROUND_SHARE = 0.5
"""Of a word's weight, what it counts where it stands around the chunk; the rest where it
stands in it. Measured on the training queries of SciFact: 0 .688, .3 .694, .5 .700, .7 .704
(nDCG@10); kept in the middle, because the words of a chunk itself tell it from its neighbours."""
NEAR = ((9, 2), (5, 1))
"""Least length of a misspelt word, and how many edits may lie between it and a known one."""
SAMPLES, SAMPLE = 8, 500
"""Chunks, and characters of each, by which the language of a version is told."""

_MARKS = "".join(
    chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code)).startswith("M")
)
_WORD = re.compile(rf"[\w{_MARKS}]+")
_RUN = re.compile(
    "["
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"  # iteration mark, kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # han
    "\uac00-\ud7af\u1100-\u11ff"  # hangul
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e80-\u0edf"  # thai, lao
    "\u1000-\u109f\u1780-\u17d3"  # burmese, khmer
    "\U00020000-\U0003ffff"  # rare han
    "]+"
)


def bigrams(text: str) -> list[str]:
    """Overlapping pairs of each run of unspaced characters; a lone character is itself."""
    terms: list[str] = []
    for found in _RUN.finditer(text):
        run = found[0]
        if len(run) == 1:
            terms.append(run)
        else:
            terms += [run[i : i + 2] for i in range(len(run) - 1)]
    return terms


def spaced(text: str) -> str:
    """The text with unspaced runs blanked, for the tokenizers that look for words."""
    return _RUN.sub(" ", text)


def words(text: str) -> list[str]:
    """The words of a text in lower case, unspaced runs and overlong ones left out."""
    found = (word.lower() for word in _WORD.findall(spaced(text).replace("_", " ")))
    return [word for word in found if len(word) <= LONGEST_WORD]


def well_formed(text: str) -> str:
    """The text with what is no character replaced: half of a surrogate pair, NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", " ")


@dataclass(frozen=True, slots=True)
class Words:
    """A text as the back ends take it."""

    spaced: str
    """The text without unspaced runs."""
    pairs: str
    """The unspaced runs' pairs, separated by spaces."""

    @classmethod
    def of(cls, *parts: str) -> Words:
        """The words of some texts together."""
        whole = well_formed("\n".join(parts))
        return cls(spaced(whole), " ".join(bigrams(whole)))


@dataclass(frozen=True, slots=True)
class IndexedText:
    """A chunk as the back ends take it."""

    key: int
    language: str
    own: Words
    """Of title, headings and text."""
    around: Words
    """Of title, headings, the text and those of the chunks around it."""


def indexed_texts(version: LexicalVersion) -> list[IndexedText]:
    """What the index must hold of each chunk.

    The language is the chunk's own where it was declared or can be told, else that
    of the whole version: a table of figures is in the language of its report.
    """
    step = max(1, len(version.chunks) // SAMPLES)
    sample = words(" ".join(chunk.text[:SAMPLE] for chunk in version.chunks[::step]))
    of_version = language_of(sample) if sample else OTHER
    texts = []
    for place, chunk in enumerate(version.chunks):
        language = declared(chunk.language)
        if language == OTHER:
            language = by_function_words(words(chunk.text[:SAMPLE])) or of_version
        where = (version.title, *chunk.headings)
        near_by = version.chunks[max(0, place - AROUND) : place + AROUND + 1]
        texts.append(
            IndexedText(
                key=chunk.key,
                language=language,
                own=Words.of(*where, chunk.text),
                around=Words.of(*where, *(one.text for one in near_by)),
            )
        )
    return texts


def near(word: str) -> int:
    """How many edits a word that nothing contains may be away from one that is meant.

    A short word has too many neighbours; a number is right or it is not.
    """
    if not word.isalpha():
        return 0
    return next((edits for least, edits in NEAR if len(word) >= least), 0)


@dataclass(frozen=True, slots=True)
class QueryWords:
    """A query, taken apart."""

    words: Sequence[str]
    """Distinct words without the function words of the query's language, in order."""
    pairs: Sequence[str]
    """Distinct pairs of unspaced runs."""


def query_words(text: str) -> QueryWords:
    """The words of a query that are worth looking for; all of them when nothing else is left."""
    clean = well_formed(text)
    found = list(dict.fromkeys(words(clean)))
    leave_out = STOP_WORDS.get(by_function_words(found), ())
    kept = [word for word in found if word not in leave_out]
    return QueryWords(kept or found, list(dict.fromkeys(bigrams(clean))))
