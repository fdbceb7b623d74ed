"""Judges sentence by sentence whether an answer is supported by what it cites. Pure.

No bundled entailment model has a usable licence, so support is decided by what can be checked:
every number and name of a sentence stands in its source, most of its content words do, and the
passage that matches best does not say the opposite.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.guardrail import words
from services.guardrail.sentences import MARKER, Sentence, split


@dataclass(frozen=True, slots=True)
class GroundingPolicy:
    """Thresholds of the check."""

    overlap: float = 0.6
    """Share of a sentence's content words that its source must hold."""
    short: int = 3
    """A sentence with fewer content words is judged together with the question."""


@dataclass(frozen=True, slots=True)
class Support:
    """Judgement of one sentence."""

    start: int
    end: int
    supported: bool
    markers: tuple[str, ...]
    """Sources that support it."""
    score: float
    """0 to 1."""
    reason: str = ""
    """`no_citation`, `number_differs`, `name_missing`, `negation_differs`, `low_overlap`."""


@dataclass(frozen=True, slots=True)
class Groundedness:
    """Judgement of an answer."""

    sentences: tuple[Support, ...]
    share: float
    """Supported sentences by all sentences; 0 without any."""


@dataclass(frozen=True, slots=True)
class _Source:
    text: str
    flat: str
    content: frozenset[str]
    numbers: frozenset[str]
    passages: tuple[tuple[str, frozenset[str]], ...]


_REDACTED = re.compile(r"\[redacted: [a-z ]+\]")
_SPACE = re.compile(r"\s+")
_PASSAGE_END = re.compile(r"(?<=[.!?。！？])\s+|\n+")


def check(
    answer: str,
    sources: Mapping[str, str],
    question: str = "",
    policy: GroundingPolicy = GroundingPolicy(),
) -> Groundedness:
    """Support of every sentence of `answer`.

    Args:
        answer: With its markers, such as `Leave is 30 days [1].`
        sources: Text by marker.
        question: Helps to judge answers of a word or two.
        policy: Thresholds.
    """
    prepared = {marker: _prepare(text) for marker, text in sources.items()}
    judged = tuple(_judge(sentence, prepared, question, policy) for sentence in split(answer))
    supported = sum(support.supported for support in judged)
    return Groundedness(judged, supported / len(judged) if judged else 0.0)


def _judge(
    sentence: Sentence, sources: Mapping[str, _Source], question: str, policy: GroundingPolicy
) -> Support:
    cited = [marker for marker in sentence.covering if marker in sources]
    if not cited:
        return Support(sentence.start, sentence.end, False, (), 0.0, "no_citation")
    text = _REDACTED.sub(" ", sentence.text)
    verdicts = {marker: _against(text, sources[marker], question, policy) for marker in cited}
    supporting = tuple(marker for marker, (_, reason) in verdicts.items() if not reason)
    if not supporting and len(cited) > 1:
        together = _prepare("\n".join(sources[marker].text for marker in cited))
        score, reason = _against(text, together, question, policy)
        if not reason:
            return Support(sentence.start, sentence.end, True, tuple(cited), score)
    if supporting:
        score = max(verdicts[marker][0] for marker in supporting)
        return Support(sentence.start, sentence.end, True, supporting, score)
    score, reason = max(verdicts.values())
    return Support(sentence.start, sentence.end, False, (), score, reason)


def _against(
    text: str, source: _Source, question: str, policy: GroundingPolicy
) -> tuple[float, str]:
    """Score and reason of one sentence against one source; no reason means supported."""
    if _flat(text) in source.flat:
        return 1.0, ""
    content = words.content(text)
    if len(content) < policy.short:
        content = content + words.content(question)
    held = [word for word in content if word in source.content]
    score = len(held) / len(content) if content else 0.0
    if not words.numbers(text) <= source.numbers:
        return score, "number_differs"
    if any(name not in source.content for name in words.names(text)):
        return score, "name_missing"
    if score < policy.overlap:
        return score, "low_overlap"
    closest = _closest(frozenset(content), source)
    if words.negated(text) != words.negated(closest) or words.opposed(text, closest):
        return score, "negation_differs"
    return score, ""


def _closest(content: frozenset[str], source: _Source) -> str:
    """The passage of the source that shares most content words."""
    best = max(
        source.passages,
        key=lambda passage: len(content & passage[1]) / (1 + 0.01 * len(passage[1])),
        default=("", frozenset()),
    )
    return best[0]


def _prepare(text: str) -> _Source:
    passages = tuple((passage, frozenset(words.content(passage))) for passage in _passages(text))
    return _Source(
        text,
        _flat(text),
        frozenset(words.content(text)),
        frozenset(words.numbers(text)),
        passages,
    )


def _passages(text: str) -> Sequence[str]:
    return [passage for passage in _PASSAGE_END.split(text) if passage.strip()]


def _flat(text: str) -> str:
    return _SPACE.sub(" ", MARKER.sub("", text)).strip().rstrip(".").lower()
