"""Questions with known answers, for measuring what the mesh answers.

A directory holds either

    questions.jsonl  {"id", "question", "docs": [file names], "answerable"?, "answers"?, "pages"?}
    pdfs/            the files (or `documents/`)

or a data set laid out as BEIR's, whose `metadata` may say `answerable` and `answers` and whose
judgements name the sources. `pages` gives the pages of a file that hold the answer:
`{"report.pdf": [12, 13]}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meshkit.cli.beir import Dataset, DatasetInvalid, Entry, lines

FILES = ("pdfs", "documents")


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and what is known of its answer."""

    id: str
    text: str
    answerable: bool
    """Whether the corpus holds the answer."""
    sources: frozenset[str]
    """Corpus ids that hold it; empty when nobody said."""
    answers: Sequence[str]
    """Wordings of which a right answer contains one; empty when nobody said."""
    pages: Mapping[str, frozenset[int]]
    """Pages that hold it, by corpus id; empty when nobody said."""


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """A corpus and questions about it."""

    name: str
    corpus: Sequence[Entry]
    questions: Sequence[Question]

    def sample(self, count: int) -> QuestionSet:
        """The set with so many of its questions, spread over all of them; 0 keeps all."""
        total = len(self.questions)
        if not count or count >= total:
            return self
        kept = [self.questions[place * total // count] for place in range(count)]
        return replace(self, questions=kept)


def is_about_files(directory: Path) -> bool:
    """Whether a directory holds files with questions, and no judged queries."""
    return (directory / "questions.jsonl").exists()


def load(directory: Path) -> QuestionSet:
    """Reads files and the questions about them.

    Raises:
        DatasetInvalid: a file is missing or a line of it is not what it should be.
    """
    folder = next((directory / name for name in FILES if (directory / name).is_dir()), None)
    if folder is None:
        raise DatasetInvalid(f"{directory} has questions.jsonl and no folder {' or '.join(FILES)}.")
    corpus = [Entry(path.name, "", "", path) for path in sorted(folder.iterdir()) if path.is_file()]
    known = {entry.id for entry in corpus}
    questions: list[Question] = []
    for line in lines(directory / "questions.jsonl", ("question",)):
        number = len(questions) + 1
        sources = frozenset(map(str, line.get("docs", ())))
        if not sources <= known:
            missing = ", ".join(sorted(sources - known))
            raise DatasetInvalid(f"Question {number} of {directory} names {missing}: no such file.")
        pages = dict(line.get("pages") or {})
        questions.append(
            Question(
                id=str(line.get("id", number)),
                text=str(line["question"]),
                answerable=bool(line.get("answerable", True)),
                sources=sources,
                answers=tuple(map(str, line.get("answers", ()))),
                pages={str(name): frozenset(map(int, of)) for name, of in pages.items()},
            )
        )
    if not questions:
        raise DatasetInvalid(f"{directory / 'questions.jsonl'} holds no question.")
    return QuestionSet(directory.resolve().name, corpus, questions)


def of_dataset(dataset: Dataset) -> QuestionSet:
    """The questions of a data set laid out as BEIR's, judged or not."""
    return QuestionSet(
        dataset.name,
        dataset.corpus,
        [
            _question(name, text, dataset.metadata.get(name, {}), dataset.relevance.get(name, {}))
            for name, text in dataset.asked.items()
        ],
    )


def has_unanswerable(dataset: Dataset) -> bool:
    """Whether a data set says which of its questions its corpus answers."""
    return any("answerable" in known for known in dataset.metadata.values())


def _question(
    name: str, text: str, metadata: Mapping[str, Any], judged: Mapping[str, int]
) -> Question:
    return Question(
        id=name,
        text=text,
        answerable=bool(metadata.get("answerable", True)),
        sources=frozenset(source for source, gain in judged.items() if gain > 0),
        answers=tuple(map(str, metadata.get("answers", ()))),
        pages={},
    )
