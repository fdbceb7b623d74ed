"""How far an answer can be trusted: several weak signals vote. Pure.

No single number tells whether a source answers a question: a cross-encoder trained on prose scores
a table low and a near miss high, an embedding finds everything on the subject alike. So each signal
gives a vote, for or against, that counts as much as it was worth on questions whose answers are
known (`calibration.py`). The sum is the log-odds that the sources answer the question.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum

_EXTREME = 3.0
"""Spreads from the centre beyond which a signal counts no more: votes stay weak."""


class Confidence(Enum):
    """How far an answer can be trusted."""

    VERIFIED = "verified"
    GROUNDED = "grounded"
    MIXED = "mixed"
    UNGROUNDED = "ungrounded"


@dataclass(frozen=True, slots=True)
class Signals:
    """What is known about a quoted sentence before anybody checks it; None is not known."""

    evidence: float | None = None
    """Logit of the cross-encoder for question and sentence, corrected by `Rules`."""
    share: float | None = None
    """Part of the question's words that the sentence and its place hold, by rarity, 0 to 1."""
    similarity: float | None = None
    """Cosine of question and chunk."""
    agreement: float | None = None
    """1 when the chunk was found by meaning and by words, else 0."""


SIGNALS = tuple(one.name for one in fields(Signals))


@dataclass(frozen=True, slots=True)
class Vote:
    """What a signal counts."""

    weight: float
    """Log-odds of one spread."""
    centre: float
    """Where it says nothing."""
    spread: float
    """Standard deviation on the questions it was calibrated with."""

    def of(self, value: float | None) -> float:
        """Log-odds of a value; a signal that is not known does not vote."""
        if value is None:
            return 0.0
        return self.weight * max(-_EXTREME, min(_EXTREME, (value - self.centre) / self.spread))


@dataclass(frozen=True, slots=True)
class Ballot:
    """How the signals are counted, for models that were measured together."""

    bias: float
    votes: Mapping[str, Vote]
    """By name of the signal."""
    answer: float
    """Probability below which the sources are said not to answer."""
    verified: float
    """Probability from which an answer may be called verified."""

    def support(self, signals: Signals) -> float:
        """Probability that the sources answer the question, 0 to 1."""
        odds = self.bias + sum(vote.of(getattr(signals, name)) for name, vote in self.votes.items())
        return 1 / (1 + math.exp(-odds))


@dataclass(frozen=True, slots=True)
class Rules:
    """Corrections of a cross-encoder's logit, which was trained on prose and not on filings.

    In logits of ms-marco-MiniLM-L-12-v2; chosen by hand on questions about 10-Q filings.
    """

    scoped_bonus: float = 3.0
    """Added where the question names its documents and they were searched one by one: half of
    "is it in there" is answered then."""
    facet_gap: float = 8.0
    """Of several documents each gives its best sentence when it scores at most so much less than
    the best of all."""
    companion_gap: float = 4.0
    """A second sentence is shown when it scores at most so much less than the first."""
    named_row_bonus: float = 5.0
    """Added to the logit of a row whose label the question names, when sentences are ranked."""
    other_name_doubt: float = 2.0
    """Taken off a sentence whose passage lacks the names of the question while others have them."""
    unknown_name_doubt: float = 8.0
    """Taken off when no passage has any of the names."""
    acronym_doubt: float = 2.0
    """The same where the only names are short words in capitals: "PTO" may mean "vacation"."""
    no_amount_doubt: float = 2.0
    """Taken off a sentence without a number when the question asks how many or how much."""
    title_doubt: float = 1.5
    """Taken off per number or name of the question that another document's title holds and this
    one's not."""
    answer_coverage: float = 0.5
    """Without any calibration: share of the question's words the best sentence must hold."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known about an answer when it is complete."""

    abstained: bool
    """The answer says that it does not know."""
    groundedness: float | None
    """Share of supported sentences; None when it could not be checked."""
    support: float | None
    """Probability by vote that the sources answer the question; None when there was no ballot."""
    ballot: Ballot | None
    degraded: Sequence[str] = ()
    """Stages that were missing."""


def judge(checked: Checked) -> Confidence:
    """The confidence of an answer: the grounding's word, then the vote.

    Without a ballot nothing is known of what the scores mean, and nothing is verified.
    """
    if checked.abstained or checked.groundedness == 0:
        return Confidence.UNGROUNDED
    if checked.groundedness is None or checked.groundedness < 1:
        return Confidence.MIXED
    if checked.support is None or checked.ballot is None:
        return Confidence.GROUNDED
    if checked.support < checked.ballot.answer:
        return Confidence.MIXED
    strong = checked.support >= checked.ballot.verified and not checked.degraded
    return Confidence.VERIFIED if strong else Confidence.GROUNDED
