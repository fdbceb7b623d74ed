"""The local answerer: the best two sentences of the sources, as they stand there.

No language model that comes in a package answered well (MODELS.md), so without a provider's key an
answer is a quotation. Its worth is that it cannot invent: what is shown is in the document, and
when no sentence answers, it says so.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol

from meshkit.errors import MeshError
from meshkit.logging import logger
from meshkit.usage import Spend
from services.generation import calibration
from services.generation.abstention import not_found
from services.generation.answers import Draft, Quote
from services.generation.calibration import NOBODY, Calibration
from services.generation.candidates import Candidate, alike, candidates, coverage, flat, title_names
from services.generation.confidence import Rules
from services.generation.names import lacks, names
from services.generation.passages import Passage
from services.generation.weighing import Election, Scores, Weighed, weigh

log = logger(__name__)

_SHARE = 0.7
"""Of the time there is, for scoring."""
_CHARACTERS_PER_TOKEN = 4
_LEAST = 5
"""Sentences scored of each part of a question that has several; two times the limit in all."""


class Scorer(Protocol):
    """Scores texts against a question."""

    async def score(self, question: str, texts: Sequence[str], *, seconds: float) -> Scores:
        """Logit per text.

        Raises:
            MeshError: when the scorer cannot be reached or has no time.
        """
        ...


class ExtractiveGenerator:
    """Quotes the sentences that answer best; see `Generator`.

    Args:
        scorer: Scores sentences against the question.
        limit: Sentences it is asked about.
        rules: Corrections of its logits.
        calibrations: What the signals of which models are worth.
    """

    provider = "local"
    model = "extractive-2"

    def __init__(
        self,
        scorer: Scorer,
        *,
        limit: int = 14,
        rules: Rules | None = None,
        calibrations: Sequence[Calibration] | None = None,
    ) -> None:
        self._scorer = scorer
        self._limit = limit
        self._rules = rules or Rules()
        self._calibrations = calibration.load() if calibrations is None else calibrations
        self._unknown: set[str] = set()
        """Scorers without a calibration that were told about."""

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
        asked, found = self.candidates(question, passages)
        scores, degraded = await self._score(asked, found, seconds)
        if scores.scorer != NOBODY and not self._known(scores.scorer):
            degraded = (*degraded, "calibration")
        weighed, election = weigh(asked, found, scores, self._calibrations, self._rules)
        chosen = self._chosen(asked, weighed, election)
        chosen = _within(chosen, max_tokens * _CHARACTERS_PER_TOKEN)
        if not chosen:
            yield not_found(question)
            yield Draft((), True, scores.usage, degraded, self.provider, self.model)
            return
        candidates = [one.candidate for one in chosen]
        several = len({_number(candidate.passage) for candidate in candidates}) > 1
        # The best first; two sentences of one passage as they follow each other there.
        if len({candidate.passage.marker for candidate in candidates}) == 1:
            candidates.sort(key=lambda candidate: candidate.order)
        for index, candidate in enumerate(candidates):
            # Two rows or a row and a sentence do not flow; a line each reads better.
            joint = "" if index == 0 else "\n" if candidate.is_row or candidates[0].is_row else " "
            joint = "\n" if several and index else joint
            yield f"{joint}{flat(candidate.text)} [{candidate.passage.marker}]"
        quotes = tuple(
            Quote(candidate.passage.marker, candidate.passage.chunk, candidate.text)
            for candidate in candidates
        )
        yield Draft(
            quotes,
            False,
            scores.usage,
            degraded,
            self.provider,
            self.model,
            support=max((one.support for one in chosen if one.support is not None), default=None),
            ballot=election.ballot,
        )

    def candidates(self, question: str, passages: Sequence[Passage]) -> tuple[str, list[Candidate]]:
        """What is asked of the passages, and the best sentences of each part of it."""
        question = next((one.facet.question for one in passages if one.facet), question)
        parts = _by_facet(passages)
        each = self._limit if len(parts) == 1 else max(_LEAST, 2 * self._limit // len(parts))
        return question, [one for part in parts for one in candidates(question, part, each)]

    async def _score(
        self, question: str, found: Sequence[Candidate], seconds: float
    ) -> tuple[Scores, tuple[str, ...]]:
        """The scores, and what was missing to get them."""
        if not found:
            return Scores({}, ()), ()
        texts = [candidate.scored_text for candidate in found]
        try:
            scores = await self._scorer.score(question, texts, seconds=seconds * _SHARE)
        except MeshError as error:
            log.warning("answering without scores", reason=error.reason)
            return Scores({}, ()), ("rerank",)
        return scores, () if scores.logits else ("rerank",)

    def _known(self, scorer: str) -> bool:
        """Whether it is known what a scorer's logits mean; says so once when it is not."""
        if any(one.scorer == scorer for one in self._calibrations):
            return True
        if scorer not in self._unknown:
            self._unknown.add(scorer)
            log.warning("scores without a calibration do not vote", scorer=scorer)
        return False

    def _chosen(
        self, question: str, weighed: Sequence[Weighed], election: Election
    ) -> list[Weighed]:
        """What is quoted; nothing when no candidate has enough support."""
        rules = self._rules
        if not any(self._answers(question, one, election) for one in weighed):
            return []
        best = weighed[0]
        if len({_number(one.candidate.passage) for one in weighed}) > 1:
            floor = best.worth - rules.facet_gap
            return _one_of_each(
                [
                    one
                    for one in weighed
                    if one.worth >= floor and self._answers(question, one, election)
                ]
            )
        companions = [
            other
            for other in weighed
            if other is not best
            and other.worth >= best.worth - rules.companion_gap
            and self._answers(question, other, election)
            and _goes_with(question, best.candidate, other.candidate)
        ]
        return [best, *companions[:1]]

    def _answers(self, question: str, one: Weighed, election: Election) -> bool:
        if one.support is None or election.ballot is None:
            return coverage(question, one.candidate) >= self._rules.answer_coverage
        return one.support >= election.ballot.answer


def _by_facet(passages: Sequence[Passage]) -> list[list[Passage]]:
    """Passages by the part of the question they were searched for; all as one without parts."""
    parts: dict[int, list[Passage]] = {}
    for passage in passages:
        parts.setdefault(_number(passage), []).append(passage)
    return [parts[facet] for facet in sorted(parts)] or [[]]


def _number(passage: Passage) -> int:
    return passage.facet.number if passage.facet else 0


def _one_of_each(weighed: Sequence[Weighed]) -> list[Weighed]:
    """The best candidate of each part of the question, in the order of the parts."""
    best: dict[int, Weighed] = {}
    for one in weighed:
        best.setdefault(_number(one.candidate.passage), one)
    return [best[facet] for facet in sorted(best)]


def _goes_with(question: str, best: Candidate, other: Candidate) -> bool:
    """Whether a second sentence adds to the first and is about the same document's subject."""
    wanted = names(question)
    stranger = lacks(other.passage, wanted) and not lacks(best.passage, wanted)
    titled = title_names(question, best.passage)
    return (
        not stranger and not alike(best, other) and title_names(question, other.passage) >= titled
    )


def _within(chosen: Sequence[Weighed], characters: int) -> list[Weighed]:
    """As many of the best as fit; a sentence is never cut."""
    kept: list[Weighed] = []
    for one in chosen:
        length = len(flat(one.candidate.text))
        if length > characters:
            break
        kept.append(one)
        characters -= length
    return kept
