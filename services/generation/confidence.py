"""How far an answer can be trusted, from signals that were measured. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.generation.answers import Confidence


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where the signals begin to mean something.

    The logits belong to ms-marco-MiniLM-L-12-v2 (int8) over single sentences and the similarity to
    bge-small-en-v1.5; another model needs other numbers. Measured on xquad-en-abstain, see the
    table in README.md.
    """

    answer_logit: float = -4.0
    """Best sentence below it: the sources do not answer the question."""
    scoped_logit: float = -7.0
    """The same where the question names its documents and they were searched one by one."""
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
    no_amount_doubt: float = 2.0
    """Taken off a sentence without a number when the question asks how many or how much."""
    title_doubt: float = 1.5
    """Taken off per word of the question that another document's title holds and this one's not."""
    verified_logit: float = 6.0
    """Best sentence at or above it: one signal for VERIFIED."""
    verified_similarity: float = 0.65
    """Cosine of question and cited chunk at or above it: another one."""
    answer_coverage: float = 0.5
    """Without a cross-encoder: share of the question's weight the best sentence must hold."""


@dataclass(frozen=True, slots=True)
class Signals:
    """What is known about an answer."""

    abstained: bool
    """The answer says that it does not know."""
    groundedness: float | None
    """Share of supported sentences; None when it could not be checked."""
    evidence: float | None
    """Logit of the best sentence; None when not scored."""
    similarity: float
    """Best cosine of question and cited chunk; 0 without the dense index."""
    lists_agree: bool
    """A cited chunk was found by meaning and by words."""
    degraded: Sequence[str] = ()
    """Stages that were missing."""


def judge(signals: Signals, thresholds: Thresholds = Thresholds()) -> Confidence:
    """The confidence of an answer."""
    if signals.abstained or signals.groundedness == 0:
        return Confidence.UNGROUNDED
    if signals.groundedness is None or signals.groundedness < 1:
        return Confidence.MIXED
    strong = (
        signals.evidence is not None
        and signals.evidence >= thresholds.verified_logit
        and signals.similarity >= thresholds.verified_similarity
        and signals.lists_agree
        and not signals.degraded
    )
    return Confidence.VERIFIED if strong else Confidence.GROUNDED
