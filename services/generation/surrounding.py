"""How much a language model reads: the hits, and what stands around them, sized to the question.

What stands beside a hit becomes a source of its own, with a marker of its own, so that a citation
of it is as exact as any. Sources go in the order of the documents (`prompt.py`), where neighbours
read on from each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from meshkit.providers.catalogue import estimated_tokens
from services.generation.citations import beside
from services.generation.passages import Chunk, Passage

NARROW_SHARE = 0.5
"""Of the tokens there are, for a question that asks for one thing."""
FEWEST = 3
"""Hits that are read whatever they weigh."""
LONG_QUESTION = 24
"""Words from which a question asks for more than one thing."""

_BROAD = re.compile(
    r"\b(?:compar\w*|differ\w*|versus|vs|summar\w*|overview|explain\w*|describe\w*|why|list|all|every"
    r"|which|steps?|process|procedure|changed?|trend\w*|over time|vergleich\w*|unterschied\w*"
    r"|zusammenfass\w*|überblick|erklär\w*|beschreib\w*|warum|wieso|weshalb|alle|welche\w*|schritte"
    r"|ablauf|entwicklung|compare[rz]|résum\w*|pourquoi|quels|quelles|toutes?|étapes|por qué|cuáles"
    r"|todos|todas|resum\w*)\b|比较|区别|总结|为什么|所有|哪些|步骤",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+")


def room(question: str, most: int) -> int:
    """Tokens of sources that a question is worth: fewer when it asks for one thing.

    Args:
        question: What is asked.
        most: What the widest question gets.
    """
    asked = _BROAD.search(question) or question.count("?") > 1
    broad = asked or len(_WORD.findall(question)) >= LONG_QUESTION
    return most if broad else round(most * NARROW_SHARE)


def fitting(hits: Sequence[Passage], tokens: int) -> tuple[Passage, ...]:
    """The best hits that fit; the first ones always do, and the parts of a question all stay."""
    kept: list[Passage] = []
    for hit in hits:
        tokens -= _tokens(hit.chunk)
        if tokens < 0 and len(kept) >= FEWEST and hit.facet is None:
            break
        kept.append(hit)
    return tuple(kept)


def wanted(hits: Sequence[Passage]) -> list[str]:
    """Ids of the chunks before and after each hit, those of the best first."""
    own = {hit.chunk.chunk_id for hit in hits}
    found = (name for hit in hits for name in beside(hit.chunk))
    return [name for name in dict.fromkeys(found) if name not in own]


def surrounded(
    hits: Sequence[Passage], names: Sequence[str], chunks: Mapping[str, Chunk], tokens: int
) -> tuple[Passage, ...]:
    """The hits, and as many of their neighbours as fit, with the markers that follow.

    Args:
        hits: Best first.
        names: Ids of neighbours, those of the best hits first.
        chunks: The neighbours there are, by id; one with an injection finding is left out.
        tokens: Room for hits and neighbours together.
    """
    left = tokens - sum(_tokens(hit.chunk) for hit in hits)
    found = list(hits)
    for name in names:
        chunk = chunks.get(name)
        if chunk is None or chunk.flags or _tokens(chunk) > left:
            continue
        left -= _tokens(chunk)
        marker = str(len(found) + 1)
        found.append(Passage(marker, chunk, 0.0, beside=True))
    return tuple(found)


def _tokens(chunk: Chunk) -> int:
    return estimated_tokens([chunk.text])
