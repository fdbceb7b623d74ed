"""Weighing sentences: what the cross-encoder says of each, corrected, and the vote on it. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from meshkit import language
from meshkit.coverage import covers, space_languages
from services.generation import calibration
from services.generation.answers import Usage
from services.generation.calibration import NOBODY, Calibration, Found
from services.generation.candidates import (
    Candidate,
    is_named_row,
    lacks_amount,
    title_names,
)
from services.generation.confidence import Ballot, Rules, Signals
from services.generation.names import acronyms, lacks, names


@dataclass(frozen=True, slots=True)
class Scores:
    """The cross-encoder's opinion."""

    logits: Mapping[int, float]
    """By position in the texts; a text the deadline left out is missing."""
    usage: tuple[Usage, ...]
    scorer: str = NOBODY
    """`provider/model` of the cross-encoder."""
    languages: Sequence[str] = ()
    """Languages it was trained for; empty means any."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """A candidate and what speaks for it."""

    candidate: Candidate
    worth: float
    """What the candidates of one question are ordered by."""
    evidence: float | None
    """Logit of the cross-encoder, corrected; None when nobody scored."""
    support: float | None
    """Probability by vote that it answers; None when no ballot fits."""


@dataclass(frozen=True, slots=True)
class Election:
    """How the candidates of one question are weighed."""

    ballot: Ballot | None
    trained: bool
    """Whether the question is in a language of the cross-encoder, or of the space without one."""
    uses_evidence: bool
    uses_similarity: bool

    @classmethod
    def of(cls, found: Found | None, trained: bool) -> "Election":
        """With the ballot that was found, or without any."""
        if found is None:
            return cls(None, trained, False, False)
        return cls(found.ballot, trained, found.uses_evidence, found.uses_similarity)

    def support(self, candidate: Candidate, evidence: float | None) -> float | None:
        """Probability that a candidate answers; None without a ballot."""
        if self.ballot is None:
            return None
        signals = signals_of(candidate, evidence if self.uses_evidence else None)
        if not self.uses_similarity:
            signals = replace(signals, similarity=None)
        return self.ballot.support(signals)


def signals_of(candidate: Candidate, evidence: float | None) -> Signals:
    """What is known about a candidate; meaning has no vote where it was not searched by."""
    passage = candidate.passage
    return Signals(
        evidence=evidence,
        share=candidate.share,
        similarity=passage.dense_similarity if passage.dense_rank else None,
        agreement=float(bool(passage.dense_rank and passage.lexical_rank))
        if passage.space
        else None,
    )


def weigh(
    question: str,
    found: Sequence[Candidate],
    scores: Scores,
    calibrations: Sequence[Calibration],
    rules: Rules,
) -> tuple[list[Weighed], Election]:
    """The candidates that were scored, best first; all of them when none was.

    A cross-encoder orders sentences in the languages it was trained for. In others its
    logits are one weak signal among several, and the vote orders.
    """
    spoken = language.detect(question)
    space = next((one.passage.space for one in found if one.passage.space), "")
    scorer = scores.scorer if scores.logits else NOBODY
    trained = covers(scores.languages if scores.logits else space_languages(space), spoken)
    election = Election.of(calibration.find(calibrations, scorer, space, trained=trained), trained)
    weighed = []
    for index, candidate in enumerate(found):
        logit = scores.logits.get(index)
        if scores.logits and logit is None:
            continue
        evidence = None if logit is None else logit - _doubt(question, found, candidate, rules)
        support = election.support(candidate, evidence)
        if evidence is not None and trained:
            worth = evidence + rules.named_row_bonus * is_named_row(question, candidate)
        else:
            worth = candidate.share if support is None else _log_odds(support)
        weighed.append(Weighed(candidate, worth, evidence, support))
    # Stable: of equals the one that shares most words stays first.
    weighed.sort(key=lambda one: -one.worth)
    return weighed, election


def _doubt(question: str, found: Sequence[Candidate], candidate: Candidate, rules: Rules) -> float:
    """Taken off a sentence that does not say what the question is about.

    It gives no number where one is asked for, or its passage does not mention the question's
    names; more when no passage does, because then the documents are about something else.
    """
    doubt = rules.no_amount_doubt * lacks_amount(question, candidate)
    best_title = max(title_names(question, other.passage) for other in found)
    doubt += rules.title_doubt * (best_title - title_names(question, candidate.passage))
    if candidate.passage.facet:
        doubt -= rules.scoped_bonus
    wanted = names(question)
    if not lacks(candidate.passage, wanted):
        return doubt
    if any(not lacks(other.passage, wanted) for other in found):
        return doubt + rules.other_name_doubt
    acronym = wanted <= acronyms(question)
    return doubt + (rules.acronym_doubt if acronym else rules.unknown_name_doubt)


def _log_odds(probability: float) -> float:
    bounded = min(max(probability, 1e-9), 1 - 1e-9)
    return math.log(bounded / (1 - bounded))
