"""The words of a source that a sentence of a model rests on. Pure.

A model cites a passage, not a sentence. What is shown beside the citation is the sentence
or row of that passage that shares most with the sentences that cite it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from services.generation.answers import Quote
from services.generation.candidates import terms
from services.generation.citations import used_markers
from services.generation.passages import Passage, units

_GROUP = re.compile(r"\[\d{1,3}(?:\s*,\s*\d{1,3})*\]")


def supporting_quotes(answer: str, passages: Sequence[Passage]) -> tuple[Quote, ...]:
    """One quote for each marker the answer uses, in their order."""
    by_marker = {passage.marker: passage for passage in passages}
    said = _said(answer)
    return tuple(
        Quote(marker, by_marker[marker].chunk, _best_unit(by_marker[marker], said[marker]))
        for marker in used_markers(answer)
        if marker in by_marker
    )


def _said(answer: str) -> dict[str, set[str]]:
    """Words that stand before each marker, back to the marker before it."""
    found: dict[str, set[str]] = defaultdict(set)
    last, words = 0, set[str]()
    for group in _GROUP.finditer(answer):
        if between := set(terms(answer[last : group.start()])):
            words = between
        for marker in used_markers(group.group()):
            found[marker] |= words
        last = group.end()
    return found


def _best_unit(passage: Passage, said: set[str]) -> str:
    """The unit that holds most of what is said; of equals the shorter, then the earlier."""
    text = passage.chunk.text
    best, best_worth = "", (0, 0)
    for unit in units(text):
        candidate = unit.of(text)
        worth = (len(said & set(terms(candidate))), -len(candidate))
        if worth[0] and worth > best_worth:
            best, best_worth = candidate, worth
    return best
