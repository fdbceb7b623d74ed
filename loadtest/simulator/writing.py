"""Text as a well-behaved model would write it: sentences of the sources, with their markers.

Reads the fences in which `services.generation.prompt` puts sources. Also the relevance
scores of reranks, by the same shared words.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import lru_cache

from loadtest.simulator.embeddings import COMMON, words

_SOURCE = re.compile(r'<source id="(\w+)"[^>]*>\n?(.*?)\n?</source>', re.DOTALL)
_QUESTION = re.compile(r"<question>\n?(.*?)\n?</question>", re.DOTALL)
_EARLIER = re.compile(r"<earlier>\n?(.*?)\n?</earlier>", re.DOTALL)
_REFUSAL = re.compile(r'exactly: "([^"]+)"')
_SENTENCE = re.compile(r"[^.!?\n]*[.!?]+|[^.!?\n]+(?=\n|$)")
_PIECE = re.compile(r"\s*\S{1,12}|\s+$")
ENOUGH = 0.34
"""Share of the question's words that the sources must hold to be an answer."""


def answer(system: str, prompt: str, most_tokens: int, length: int = 0) -> tuple[str, bool]:
    """What the model says, and whether it was cut off by the limit of tokens.

    Args:
        system: Instructions.
        prompt: Sources and question.
        most_tokens: Where it is cut off.
        length: Tokens that it is brought to, by saying everything again; 0 leaves it.
    """
    sources = _SOURCE.findall(prompt)
    question = _QUESTION.search(prompt)
    asked = question[1] if question else prompt[-2000:]
    earlier = _EARLIER.findall(prompt)
    text = _completed(asked, earlier[-1]) if earlier else ""
    text = text or (_grounded(asked, sources) if sources else _echo(asked))
    if not text:
        refusal = _REFUSAL.search(system)
        text = refusal[1] if refusal else "I do not know."
    elif length:
        text = (f"{text} " * (1 + 4 * length // len(text)))[: 4 * length].rstrip()
    limit = most_tokens * 4
    return text[:limit], len(text) > limit


def _grounded(asked: str, sources: list[tuple[str, str]]) -> str:
    """The best two sentences, each with its marker; empty when none says enough."""
    wanted = set(_telling(asked))
    found = [
        (len(wanted & set(_telling(sentence))) / max(1, len(wanted)), -order, sentence, marker)
        for order, (marker, sentence) in enumerate(
            (marker, match.group().strip())
            for marker, text in sources
            for match in _SENTENCE.finditer(text)
            if len(match.group().strip()) > 12
        )
    ]
    best = sorted(found, reverse=True)[:2]
    said = [f"{s} [{marker}]" for share, _, s, marker in best if share >= ENOUGH]
    return " ".join(said)


def _completed(asked: str, earlier: str) -> str:
    """A follow-up question with what the one before it was about."""
    known = set(_telling(asked))
    added = [word for word in dict.fromkeys(words(earlier)) if not known & set(_telling(word))]
    return f"{asked.rstrip('?')} ({' '.join(added)})?"


def _echo(asked: str) -> str:
    told = " ".join(dict.fromkeys(_telling(asked)))[:200]
    return f"This is a simulated answer about {told}." if told else "This is a simulated answer."


@lru_cache(maxsize=20_000)
def _telling(text: str) -> tuple[str, ...]:
    """The words that say something; a corpus under load is read again and again."""
    return tuple(
        word.rstrip("s") if len(word) > 3 else word for word in words(text) if word not in COMMON
    )


def pieces(text: str, frame_tokens: int = 0) -> list[str]:
    """The text in the pieces it is streamed in, words or so many tokens; together the text."""
    if frame_tokens:
        size = 4 * frame_tokens
        return [text[start : start + size] for start in range(0, len(text), size)]
    found = _PIECE.findall(text)
    rest = text[sum(len(piece) for piece in found) :]
    return [*found, rest] if rest else found


def relevance(query: str, documents: list[str]) -> list[float]:
    """A score of each document, 0 to 1: which share of the query's rare words it holds."""
    held = [Counter(_telling(document)) for document in documents]
    wanted = list(dict.fromkeys(_telling(query)))
    weights = {
        word: math.log(1 + len(held) / (1 + sum(word in counts for counts in held))) + 0.1
        for word in wanted
    }
    total = sum(weights.values()) or 1.0
    scores = []
    for counts in held:
        share = sum(weight for word, weight in weights.items() if word in counts) / total
        scores.append(1 / (1 + math.exp(-10 * (share - 0.5))))
    return scores
