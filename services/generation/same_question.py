"""Whether two questions that lie close together may be given one answer. Pure.

A cosine cannot tell: of SciFact's claims, "... increases fibrosis" and "... reduces fibrosis" are
.98 alike, and so are most pairs that differ in one name, number or word. So the vector only finds
candidates, and words decide: the same words that mean something, names and numbers in the same
order, no negation more or less, and where things are compared the same order of all.
"""

import re

from meshkit import language
from services.generation.candidates import terms
from services.generation.names import names

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NEGATION = re.compile(
    r"\b(?:not|no|never|without|none|nor|nicht|kein\w*|ohne|nie|pas|jamais|sans|sin|nunca)\b"
    r"|n['’]t\b|不|没|无|未",
    re.IGNORECASE,
)
_ORDER_MATTERS = re.compile(
    r"\b(?:than|from|to|before|after|by|versus|vs|between|als|von|nach|vor|durch|que|de|à|a)\b"
    r"|比|从|到|被",
    re.IGNORECASE,
)


def same_question(one: str, other: str) -> bool:
    """Whether the answer to one is the answer to the other, as far as words can tell."""
    if language.detect(one).code != language.detect(other).code:
        return False
    if len(_NEGATION.findall(one)) != len(_NEGATION.findall(other)):
        return False
    if _NUMBER.findall(one) != _NUMBER.findall(other):
        return False
    left, right = terms(one), terms(other)
    if _ORDER_MATTERS.search(f"{one} {other}") and left != right:
        return False
    known = names(one) | names(other)
    in_order = [[word for word in words if word in known] for words in (left, right)]
    return sorted(left) == sorted(right) and in_order[0] == in_order[1]
