"""The local answerer: the best two sentences of the sources, as they stand there.

No language model that comes in a package answered well (MODELS.md), so without a provider's key an
answer is a quotation. Its worth is that it cannot invent: what is shown is in the document, and
when no sentence answers, it says so.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from meshkit.errors import MeshError
from meshkit.logging import logger
from meshkit.usage import Spend
from services.generation.answers import Draft, Quote, Usage
from services.generation.candidates import (
    Candidate,
    alike,
    candidates,
    coverage,
    flat,
    is_named_row,
    lacks,
    lacks_amount,
    names,
    title_match,
)
from services.generation.confidence import Thresholds
from services.generation.generator import NOT_FOUND
from services.generation.passages import Passage

log = logger(__name__)

_SHARE = 0.7
"""Of the time there is, for scoring."""
_CHARACTERS_PER_TOKEN = 4
_LEAST = 5
"""Sentences scored of each part of a question that has several; two times the limit in all."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The cross-encoder's opinion."""

    logits: dict[int, float]
    """By position in the texts; a text the deadline left out is missing."""
    usage: tuple[Usage, ...]


class Scorer(Protocol):
    """Scores texts against a question."""

    async def score(self, question: str, texts: Sequence[str], *, seconds: float) -> Scores:
        """Logit per text.

        Raises:
            MeshError: when the scorer cannot be reached or has no time.
        """
        ...


class ExtractiveGenerator:
    """Quotes the sentences that answer best; see `Generator`."""

    provider = "local"
    model = "extractive-1"

    def __init__(
        self, scorer: Scorer, *, limit: int = 14, thresholds: Thresholds | None = None
    ) -> None:
        self._scorer = scorer
        self._limit = limit
        self._thresholds = thresholds or Thresholds()

    def estimate_micro_usd(self, question: str, max_tokens: int) -> int:
        """Nothing: the rerank service settles its own work."""
        del question, max_tokens
        return 0

    async def write(
        self,
        question: str,
        passages: Sequence[Passage],
        *,
        max_tokens: int,
        seconds: float,
        spend: Spend,
        so_far: Callable[[], str] = str,
    ) -> AsyncGenerator[str | Draft, None]:
        """The chosen sentences in reading order, each with its marker."""
        del spend, so_far  # rerank settles its own work; nothing is ever continued
        parts = _by_facet(passages)
        question = next((one.facet.question for one in passages if one.facet), question)
        each = self._limit if len(parts) == 1 else max(_LEAST, 2 * self._limit // len(parts))
        found = [one for part in parts for one in candidates(question, part, each)]
        usage: tuple[Usage, ...] = ()
        degraded: tuple[str, ...] = ()
        evidence: float | None = None
        chosen: list[Candidate] = []
        if found:
            try:
                texts = [candidate.scored_text for candidate in found]
                scores = await self._scorer.score(question, texts, seconds=seconds * _SHARE)
            except MeshError as error:
                log.warning("answering without scores", reason=error.reason)
                degraded = ("rerank",)
                chosen = self._by_words(question, found)
            else:
                usage = scores.usage
                evidence = max(scores.logits.values(), default=None)
                chosen = self._by_scores(question, found, scores.logits)
                if not scores.logits:
                    degraded = ("rerank",)
                    chosen = self._by_words(question, found)
        chosen = _within(chosen, max_tokens * _CHARACTERS_PER_TOKEN)
        if not chosen:
            yield NOT_FOUND
            yield Draft((), evidence, True, usage, degraded, self.provider, self.model)
            return
        several = len({_number(candidate.passage) for candidate in chosen}) > 1
        # The best first; two sentences of one passage as they follow each other there.
        if len({candidate.passage.marker for candidate in chosen}) == 1:
            chosen.sort(key=lambda candidate: candidate.order)
        for index, candidate in enumerate(chosen):
            # Two rows or a row and a sentence do not flow; a line each reads better.
            joint = "" if index == 0 else "\n" if candidate.is_row or chosen[0].is_row else " "
            joint = "\n" if several and index else joint
            yield f"{joint}{flat(candidate.text)} [{candidate.passage.marker}]"
        quotes = tuple(
            Quote(candidate.passage.marker, candidate.passage.chunk, candidate.text)
            for candidate in chosen
        )
        yield Draft(quotes, evidence, False, usage, degraded, self.provider, self.model)

    def _by_scores(
        self, question: str, found: Sequence[Candidate], logits: dict[int, float]
    ) -> list[Candidate]:
        limits = self._thresholds
        worth = {
            index: logit - self._doubt(question, found, found[index])
            for index, logit in logits.items()
        }
        scoped = any(one.passage.facet for one in found)
        least = limits.scoped_logit if scoped else limits.answer_logit
        if max(worth.values(), default=float("-inf")) < least:
            return []
        for index in worth:
            worth[index] += limits.named_row_bonus * is_named_row(question, found[index])
        order = sorted(worth, key=lambda index: (-worth[index], index))
        if len({_number(one.passage) for one in found}) > 1:
            floor = max(least, worth[order[0]] - limits.facet_gap)
            return _one_of_each(found, [index for index in order if worth[index] >= floor])
        floor = max(least, worth[order[0]] - limits.companion_gap)
        chosen = [found[index] for index in order if worth[index] >= floor]
        best = chosen[0]
        companions = [other for other in chosen[1:] if _goes_with(question, best, other)]
        return [best, *companions[:1]]

    def _doubt(self, question: str, found: Sequence[Candidate], candidate: Candidate) -> float:
        """Taken off a sentence that does not say what the question is about.

        It gives no number where one is asked for, or its passage does not mention the question's
        names; more when no passage does, because then the documents are about something else.
        """
        limits = self._thresholds
        doubt = limits.no_amount_doubt * lacks_amount(question, candidate)
        best_title = max(title_match(question, other.passage) for other in found)
        doubt += limits.title_doubt * (best_title - title_match(question, candidate.passage))
        wanted = names(question)
        if not lacks(candidate.passage, wanted):
            return doubt
        nowhere = all(lacks(other.passage, wanted) for other in found)
        return doubt + (limits.unknown_name_doubt if nowhere else limits.other_name_doubt)

    def _by_words(self, question: str, found: Sequence[Candidate]) -> list[Candidate]:
        """Without scores: of each part the sentence that shares most words, if enough of them."""
        least = self._thresholds.answer_coverage
        best = _one_of_each(found, range(len(found)))
        return [one for one in best if coverage(question, one) >= least]


def _by_facet(passages: Sequence[Passage]) -> list[list[Passage]]:
    """Passages by the part of the question they were searched for; all as one without parts."""
    parts: dict[int, list[Passage]] = {}
    for passage in passages:
        parts.setdefault(_number(passage), []).append(passage)
    return [parts[facet] for facet in sorted(parts)] or [[]]


def _number(passage: Passage) -> int:
    return passage.facet.number if passage.facet else 0


def _one_of_each(found: Sequence[Candidate], order: Sequence[int]) -> list[Candidate]:
    """The best candidate of each part of the question, in the order of the parts."""
    best: dict[int, Candidate] = {}
    for index in order:
        best.setdefault(_number(found[index].passage), found[index])
    return [best[facet] for facet in sorted(best)]


def _goes_with(question: str, best: Candidate, other: Candidate) -> bool:
    """Whether a second sentence adds to the first and is about the same document's subject."""
    wanted = names(question)
    stranger = lacks(other.passage, wanted) and not lacks(best.passage, wanted)
    titled = title_match(question, best.passage)
    return (
        not stranger and not alike(best, other) and title_match(question, other.passage) >= titled
    )


def _within(chosen: Sequence[Candidate], characters: int) -> list[Candidate]:
    """As many of the best as fit; a sentence is never cut."""
    kept: list[Candidate] = []
    for candidate in chosen:
        length = len(flat(candidate.text))
        if length > characters:
            break
        kept.append(candidate)
        characters -= length
    return kept
