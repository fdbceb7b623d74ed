"""Names in a question, and whether a passage is about them. Pure.

A name is seen by its capital letter, so nothing has to be known of any person, company or place.
"""

import re
from functools import lru_cache

from meshkit import language
from meshkit.coverage import SURE
from services.generation.passages import Passage

_NAME = re.compile(r"(?<=[\w,)'’\"”] )[A-Z][\w&-]*[^\W\d_][\w&-]*")
_FIRST = re.compile(r"^\W*(?:([A-Z][\w&-]*[^\W\d_][\w&-]*)['’]s\b|([A-Z&-]*[A-Z][A-Z&-]+)\b)")
"""Every sentence begins with a capital: its first word is a name when it owns something or is
written in capitals."""
_WORD = re.compile(r"[^\W\d_]+")
_ACRONYM = re.compile(r"(?<!\w)[A-Z]{2,5}(?!\w)")
_SHORT = 4
_CAPITALISED_NOUNS = frozenset({"de", "lb"})
"""Languages that write every noun with a capital letter."""


@lru_cache(maxsize=256)
def names(question: str) -> frozenset[str]:
    """Names in a question, in lower case and without a possessive.

    Empty where capitals mean little: in German, in a title, in a question typed in capitals.
    """
    if not _capitals_mean_names(question):
        return frozenset()
    found = {name.lower() for name in _NAME.findall(question)}
    if first := _FIRST.match(question):
        found.add((first[1] or first[2]).lower())
    return frozenset(found)


def acronyms(question: str) -> frozenset[str]:
    """Short words in capitals, in lower case: "PTO" and "IBM" look alike."""
    return frozenset(word.lower() for word in _ACRONYM.findall(question))


def _capitals_mean_names(question: str) -> bool:
    """Whether words that are no names are written small.

    The short ones tell: "of" and "did" are small in a sentence and large in a title. What is in
    capitals altogether says nothing in a sentence that has small words too.
    """
    words = _WORD.findall(question)[1:]
    small = [word for word in words if word.islower()]
    if not small:
        return False
    short_small = sum(len(word) <= _SHORT for word in small)
    short_large = sum(len(word) <= _SHORT and word.istitle() for word in words)
    if short_large > short_small:
        return False
    spoken = language.detect(question)
    return spoken.code not in _CAPITALISED_NOUNS or spoken.probability < SURE


def lacks(passage: Passage, wanted: frozenset[str]) -> bool:
    """Whether a passage and its title mention none of the names."""
    chunk = passage.chunk
    held = " ".join([chunk.title, *chunk.location.headings, chunk.text]).lower()
    return bool(wanted) and not any(name in held for name in wanted)
