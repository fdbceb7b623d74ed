"""Whether what a caller saw is right. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from loadtest.faults.asking import FACT, Found, Seen
from loadtest.faults.cases import Case, Leg

NEAR = 1e-4
"""Two similarities of the same texts in the same space differ by less."""

_MARKERS = re.compile(r"\s*\[\d{1,3}\]")
_WORD = re.compile(r"\w+")
_CITED = re.compile(r".*?(?:\[\d{1,3}\])+", re.DOTALL)


@dataclass(slots=True)
class Verdict:
    """What became of one case."""

    case: Case
    saw: str
    seconds: float
    retries: int = 0
    breaker: str = ""
    cost_micro_usd: int = 0
    answered: bool = False
    refused: bool = False
    """Clearly: with a reason, a sentence and the request's id."""
    over_deadline: bool = False
    mixed_vectors: int = 0
    wrong: list[str] = field(default_factory=list)

    def row(self) -> str:
        """A line of the table."""
        where = f"{self.case.provider:9} {self.case.place:23} {self.case.name:27}"
        facts = f"{self.seconds:6.2f} s  {self.retries} retries  {self.cost_micro_usd:6} u$"
        line = f"{where} {self.saw:58} {facts}  {self.breaker}"
        return line + "".join(f"\n    WRONG: {problem}" for problem in self.wrong)


def judge(case: Case, leg: Leg, seen: Seen, documents: str, deadline: float) -> Verdict:
    """A verdict over the answer alone.

    Args:
        case: What was broken.
        leg: Where.
        seen: By the caller.
        documents: Words of every document, as `words` gives them.
        deadline: Seconds an answer may take.
    """
    verdict = Verdict(case, "", seen.seconds, over_deadline=seen.seconds > deadline)
    if seen.done is not None and seen.error is None:
        _answer(verdict, case, leg, seen, documents)
    elif seen.error is not None:
        _refusal(verdict, leg, case, seen)
    else:
        verdict.saw = "the stream ended without an end"
        verdict.wrong.append(verdict.saw)
    verdict.answered &= not verdict.wrong
    verdict.refused &= not verdict.wrong
    return verdict


def _answer(verdict: Verdict, case: Case, leg: Leg, seen: Seen, documents: str) -> None:
    done = seen.done
    assert done is not None
    verdict.answered = True
    verdict.cost_micro_usd = round(done["cost_usd"] * 1e6)
    told = f"; {', '.join(seen.switches)}" if seen.switches else ""
    without = f"; without {', '.join(done['degraded'])}" if done["degraded"] else ""
    verdict.saw = f"answered by {done['provider']}{told}{without}"
    wrong = verdict.wrong
    if FACT not in done["answer"]:
        wrong.append(f"the answer lacks the fact: {done['answer'][:80]!r}")
    if seen.text != done["answer"]:
        wrong.append("what was streamed is not the answer")
    said = [words(part) for part in _CITED.findall(done["answer"])]
    rest = _CITED.sub("", done["answer"]).strip()
    if rest or any(part not in documents for part in said):
        wrong.append(f"text of nobody, or spliced: {done['answer'][:160]!r}")
    if len(said) != len(set(said)):
        wrong.append("a sentence comes twice")
    if not done["citations"] or not all(each["supported"] for each in done["citations"]):
        wrong.append("a citation is not supported")
    if (done["provider"] == "local") is not ("generation" in done["degraded"]):
        wrong.append("the local answer does not say so")
    if done["provider"] == "local" and not leg.quotes:
        wrong.append("answered by local, which is not in the order")
    if case.after and case.provider != "*" and case.kind not in _SURVIVED and not seen.switches:
        wrong.append("nobody told the reader of the switch")


_SURVIVED = {"slow_drip"}
"""What a stream may live through: it is only slow."""


def _refusal(verdict: Verdict, leg: Leg, case: Case, seen: Seen) -> None:
    error = seen.error
    assert error is not None
    verdict.refused = True
    verdict.saw = f"refused: {error.get('reason')} ({seen.status})"
    for name in ("reason", "detail", "request_id"):
        if not error.get(name):
            verdict.wrong.append(f"the refusal has no {name}")
    if leg.quotes or case.provider != "*":
        verdict.wrong.append("refused although somebody could have answered")


def compare(case: Case, before: Found, during: Found) -> tuple[list[str], int]:
    """What is wrong with a search beside a fault, and how many of its vectors are another space's.

    Args:
        case: What was broken.
        before: The same search with providers that work.
        during: The search beside the fault.
    """
    wrong = []
    mixed = sum(
        abs(similarity - before.similarities.get(chunk, similarity)) > NEAR
        for chunk, similarity in during.similarities.items()
    )
    if mixed:
        wrong.append(f"{mixed} hits have another similarity than before")
    if case.operation in ("embed", "*") and bool(during.similarities) is (
        "dense" in during.degraded
    ):
        wrong.append("the search does not say whether it had a vector")
    if not during.chunks or during.chunks[0] not in before.chunks:
        wrong.append("the search lost what it found before")
    return wrong, mixed


def total(verdicts: list[Verdict]) -> Mapping[str, int]:
    """The figures of the last line."""
    return {
        "cases": len(verdicts),
        "answered": sum(verdict.answered for verdict in verdicts),
        "refused_clearly": sum(verdict.refused for verdict in verdicts),
        "wrong": sum(bool(verdict.wrong) for verdict in verdicts),
        "over_deadline": sum(verdict.over_deadline for verdict in verdicts),
        "mixed_vectors": sum(verdict.mixed_vectors for verdict in verdicts),
    }


def words(text: str) -> str:
    """The words of a text, whatever stands between them."""
    return " ".join(_WORD.findall(_MARKERS.sub(" ", text).casefold()))
