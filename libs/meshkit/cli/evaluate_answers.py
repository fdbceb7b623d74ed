"""Asking a mesh questions whose answers are known, and what it says worth.

`answered` means that something was cited: an answer that says that it does not know cites nothing.
Abstaining counts as the positive class: its recall is the share of the unanswerable questions that
were not answered, its precision the share of the unanswered ones that could not be.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshkit.cli.client import Client, Json, Target
from meshkit.cli.evaluate_asking import in_turn, patiently
from meshkit.cli.evaluate_corpus import LABEL
from meshkit.cli.metrics import percentile
from meshkit.cli.questions import Question, QuestionSet

UNGROUNDED = "ungrounded"
DIGITS = 4
_NOT_WORDS = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Answered:
    """What one question gave."""

    question: Question
    text: str
    confidence: str
    sources: frozenset[str]
    """Corpus ids that are cited."""
    pages: frozenset[tuple[str, int]]
    """Corpus id and page of every citation."""
    citations: int
    supported: int
    milliseconds: float
    degraded: bool

    @property
    def is_answer(self) -> bool:
        """Whether it is one, rather than saying that it does not know."""
        return self.citations > 0 and self.confidence != UNGROUNDED

    @property
    def is_right(self) -> bool | None:
        """Whether it holds a known wording, or else cites a known source; None: nobody knows."""
        if not self.question.answerable:
            return False
        held = holds_answer(self.question, self.text)
        if held is not None:
            return held
        return bool(self.sources & self.question.sources) if self.question.sources else None


def holds_answer(question: Question, text: str) -> bool | None:
    """Whether a text holds a known wording of the answer; None when none is known."""
    if not question.answers:
        return None
    said = _plain(text)
    return any(_plain(answer) in said for answer in question.answers)


def ask_all(
    asked: QuestionSet, target: Target, entries: Mapping[str, list[str]], *, clients: int
) -> tuple[list[Answered], float]:
    """Asks every question once, `clients` at a time; answers in their order, and the seconds.

    Raises:
        CommandFailed: the mesh refuses a question, or stays busy.
    """

    def ask(client: Client, question: Question) -> Answered:
        body: Json = {
            "question": question.text,
            "filter": {"labels": {LABEL: asked.name}},
            "bypass_cache": True,
        }
        took, answer = patiently(client, "/v1/answers", body)
        return _answered(question, answer, took, entries)

    return in_turn(target, asked.questions, ask, clients=clients, about=f"{asked.name}: answers")


def _answered(
    question: Question, answer: Json, took: float, entries: Mapping[str, list[str]]
) -> Answered:
    cited = [
        (source, int(citation.get("page") or 0))
        for citation in answer["citations"]
        for source in entries.get(str(citation["document_id"]), [])
    ]
    return Answered(
        question=question,
        text=str(answer["answer"]),
        confidence=str(answer["confidence"]),
        sources=frozenset(source for source, _ in cited),
        pages=frozenset(cited),
        citations=len(answer["citations"]),
        supported=sum(bool(citation["supported"]) for citation in answer["citations"]),
        milliseconds=took,
        degraded=bool(answer["degraded"]),
    )


def figures(answers: Sequence[Answered], seconds: float) -> dict[str, Any]:
    """Shares over all questions, and the times; None where nothing is known to count."""
    able = [each for each in answers if each.question.answerable]
    unable = [each for each in answers if not each.question.answerable]
    silent = [each for each in answers if not each.is_answer]
    sourced = [each for each in able if each.question.sources]
    paged = [each for each in able if each.question.pages]
    worded = [each for each in able if each.question.answers]
    times = [each.milliseconds for each in answers]
    return {
        "questions": len(answers),
        "answerable": len(able),
        "answered_of_answerable": _share(each.is_answer for each in able),
        "not_answered_of_unanswerable": _share(not each.is_answer for each in unable),
        "abstention_precision": _share(not each.question.answerable for each in silent),
        "abstention_recall": _share(not each.is_answer for each in unable),
        "right_wording": _share(each.is_right for each in worded),
        "any_source_cited": _share(bool(each.sources & each.question.sources) for each in sourced),
        "every_source_cited": _share(each.sources >= each.question.sources for each in sourced),
        "exact_page_hit": _share(_on_page(each) for each in paged),
        "citation_support": _part(
            sum(each.supported for each in answers), sum(each.citations for each in answers)
        ),
        "confidence": dict(sorted(Counter(each.confidence for each in answers).items())),
        "right_by_confidence": _right_by_confidence(answers),
        "p50_ms": round(percentile(times, 0.5), 2),
        "p95_ms": round(percentile(times, 0.95), 2),
        "per_s": round(len(answers) / seconds, 1),
        "degraded_share": _share(each.degraded for each in answers),
    }


def under_load(rest: Sequence[Answered], load: Sequence[Answered]) -> dict[str, Any]:
    """Whether what was answered in full under load is what is answered at rest."""
    pairs = [
        (one, other)
        for one, other in zip(rest, load, strict=True)
        if not one.degraded and not other.degraded
    ]
    same = sum(one.text == other.text for one, other in pairs)
    return {
        "undegraded_questions": len(pairs),
        "same_answers": same,
        "same_quality": same == len(pairs),
    }


def _on_page(answer: Answered) -> bool:
    return any(page in answer.question.pages.get(source, ()) for source, page in answer.pages)


def _right_by_confidence(answers: Sequence[Answered]) -> dict[str, float | None]:
    """Share of right answers at each confidence, of those where that is known."""
    levels = sorted({each.confidence for each in answers} - {UNGROUNDED})
    return {
        level: _share(
            each.is_right
            for each in answers
            if each.confidence == level and each.is_right is not None
        )
        for level in levels
    }


def _share(held: Iterable[bool | None]) -> float | None:
    values = [bool(value) for value in held]
    return _part(sum(values), len(values))


def _part(count: int, total: int) -> float | None:
    return round(count / total, DIGITS) if total else None


def _plain(text: str) -> str:
    """Letters and digits in lower case, so that spaces and signs do not tell wordings apart."""
    return _NOT_WORDS.sub("", unicodedata.normalize("NFKC", text).casefold())
