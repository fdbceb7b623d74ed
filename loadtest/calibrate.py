"""`make calibrate`: what the signals behind an answer are worth, for the models of a running mesh.

    python -m loadtest.calibrate DATASET_DIR... [--data DIR] [--limit N] [--samples FILE] [--write]
    python -m loadtest.calibrate --samples FILE [--write]

The mesh runs on this machine (`citemesh up --data DIR`), with the models that are to be measured.

Each data set is one of questions with known answers: laid out as BEIR's, with `answerable` and
`answers` in the metadata, or without `answerable`; then a quarter of the corpus is left out, and
the questions about it cannot be answered. The mesh finds and scores sentences as it would for an
answer. One half of the questions, by their id, fits a logistic regression of "the best sentence
answers" on the signals; the other half says what the fit is worth. Data sets in a language that
the cross-encoder knows and in others are fitted apart, and each once more without its scores.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import citemesh
from meshkit.cli import beir, evaluate_answers, questions
from meshkit.cli.client import Target
from meshkit.cli.evaluate_corpus import LABEL, bar, ingest
from meshkit.cli.evaluate_project import project_of
from meshkit.cli.output import table
from meshkit.cli.questions import Question, QuestionSet
from meshkit.supervisor.layout import DataDirectory
from meshkit.supervisor.state import read as read_state
from services.generation import calibration, scoped_search
from services.generation.answers import SearchFilter
from services.generation.calibration import Calibration
from services.generation.calls.finding import FindingCalls
from services.generation.calls.scoring import RerankCalls
from services.generation.confidence import SIGNALS, Ballot, Rules, Signals, Vote
from services.generation.extractive import ExtractiveGenerator
from services.generation.weighing import Scores, Weighed, signals_of, weigh

HIDDEN = 0.25
PASSAGES = 8
SECONDS = 60.0
AT_ONCE = 2
FEWEST = 50
RIDGE = 1.0
RIGHT = 0.95
"""Share of right answers from the probability `verified` on."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sample:
    """The best sentence of one question."""

    question: Question
    scorer: str
    space: str
    trained: bool
    signals: Signals
    right: bool
    """Whether the sentence holds a known answer; for data sets without: its document does."""

    @property
    def fits(self) -> bool:
        """Which half the question is in: the one that is fitted, or the one that tells."""
        return _hash(self.question.id) % 2 == 0


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def read(directory: Path) -> QuestionSet:
    """The questions of a data set; of one where all can be answered a quarter is made unanswerable.

    Raises:
        DatasetInvalid: it is no data set.
    """
    dataset = beir.load(directory)
    asked = questions.of_dataset(dataset)
    if questions.has_unanswerable(dataset):
        return asked
    kept = [one for one in asked.corpus if _hash(one.id) % 100 >= 100 * HIDDEN]
    left = {one.id for one in kept}
    return QuestionSet(
        f"{asked.name}-hidden",
        kept,
        [
            replace(one, answerable=bool(one.sources & left), sources=one.sources & left)
            for one in asked.questions
        ],
    )


def addresses(data: Path | None) -> dict[str, str]:
    """Where the services of the mesh on this machine are; the gateway names only some.

    Raises:
        SystemExit: none runs there.
    """
    state = read_state(DataDirectory.at(data).state)
    if state is None:
        raise SystemExit("No mesh runs here: start one with `citemesh up`, and name its --data.")
    return {child.name: child.address for child in state.children if child.address}


async def collect(
    asked: QuestionSet, target: Target, services: dict[str, str], documents: dict[str, list[str]]
) -> list[Sample]:
    """The samples of a data set, twice: with and without the cross-encoder's scores."""
    generator = ExtractiveGenerator(_Nobody(), calibrations=())
    wanted = SearchFilter(labels=((LABEL, asked.name),))
    gate = asyncio.Semaphore(AT_ONCE)
    async with citemesh.connect(target.url, target.key, addresses=services) as mesh:
        finding = FindingCalls(mesh.embedding, mesh.retrieval)
        scorer = RerankCalls(mesh.rerank)
        with bar() as progress:
            task = progress.add_task(asked.name, total=len(asked.questions))

            async def one(question: Question) -> list[Sample]:
                async with gate:
                    vector = await finding.embed(question.text, bypass_cache=False, seconds=SECONDS)
                    found = await scoped_search.find(
                        finding, question.text, vector, wanted,
                        passages=PASSAGES, bypass_cache=False, seconds=SECONDS,
                    )  # fmt: skip
                    text, sentences = generator.candidates(question.text, found.passages)
                    texts = [sentence.scored_text for sentence in sentences]
                    scores = await scorer.score(text, texts, seconds=SECONDS)
                progress.advance(task)
                samples = []
                for given in (scores, Scores({}, ())):
                    weighed, election = weigh(text, sentences, given, (), Rules())
                    if weighed:
                        samples.append(
                            _sample(question, given, weighed[0], election.trained, documents)
                        )
                return samples

            groups = await asyncio.gather(*(one(question) for question in asked.questions))
    return [sample for group in groups for sample in group]


class _Nobody:
    async def score(self, question: str, texts: Sequence[str], *, seconds: float) -> Scores:
        del question, texts, seconds
        return Scores({}, ())


def _sample(
    question: Question,
    scores: Scores,
    best: Weighed,
    trained: bool,
    documents: dict[str, list[str]],
) -> Sample:
    passage = best.candidate.passage
    answered = evaluate_answers.holds_answer(question, best.candidate.text)
    sources = set(documents.get(passage.chunk.document_id, ()))
    right = bool(sources & question.sources) if answered is None else answered
    return Sample(
        question,
        scores.scorer,
        passage.space,
        trained,
        signals_of(best.candidate, best.evidence),
        question.answerable and right,
    )


def fit(samples: Sequence[Sample]) -> Ballot:
    """Logistic regression with a small ridge, by Newton's method; two thresholds on the result.

    `answer` is where as large a share of the answerable questions is lost as of the unanswerable
    ones is answered, `verified` the least probability from which on 95 % are right.
    """
    able = np.array([float(one.question.answerable) for one in samples])
    names = list(SIGNALS)
    while True:
        given = {name: [getattr(one.signals, name) for one in samples] for name in names}
        known = {
            name: [value for value in values if value is not None] for name, values in given.items()
        }
        votes = {name: _scale(values) for name, values in known.items() if values}
        columns = [[vote.of(value) for value in given[name]] for name, vote in votes.items()]
        weights = _newton(np.array([[1.0] * len(samples), *columns]).T, able)
        # Of each signal more is better; where the sample says otherwise it is chance.
        against = [name for name, weight in zip(votes, weights[1:], strict=True) if weight <= 0]
        if not against:
            break
        names = [name for name in names if name not in against]
    fitted = {
        name: replace(vote, weight=round(float(weight), 4))
        for (name, vote), weight in zip(votes.items(), weights[1:], strict=True)
    }
    ballot = Ballot(round(float(weights[0]), 4), fitted, 0.0, 1.0)
    support = np.array([ballot.support(one.signals) for one in samples])
    right = np.array([one.right for one in samples])
    steps = np.unique(support)
    lost = np.array([(support[able == 1] < p).mean() for p in steps])
    wrong = np.array([(support[able == 0] >= p).mean() for p in steps])
    answer = float(steps[np.maximum(lost, wrong).argmin()])
    sure = [float(p) for p in steps if p >= answer and right[support >= p].mean() >= RIGHT]
    return replace(ballot, answer=round(answer, 3), verified=round(min(sure, default=1.01), 3))


def _scale(values: Sequence[float]) -> Vote:
    spread = float(np.std(values))
    return Vote(1.0, round(float(np.mean(values)), 4), round(spread, 4) or 1.0)


def _newton(rows: Floats, truth: Floats) -> Floats:
    weights = np.zeros(rows.shape[1])
    ridge = np.diag([0.0, *[RIDGE] * (rows.shape[1] - 1)])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-rows @ weights))
        slope = rows.T @ (chance - truth) + ridge @ weights
        curve = (rows * (chance * (1 - chance))[:, None]).T @ rows + ridge
        step = np.linalg.solve(curve, slope)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    return weights


def told(ballot: Ballot, samples: Sequence[Sample]) -> dict[str, float | int]:
    """What a ballot is worth on questions it was not fitted with."""
    able = [one for one in samples if one.question.answerable]
    unable = [one for one in samples if not one.question.answerable]
    answered = [one for one in able if ballot.support(one.signals) >= ballot.answer]
    sure = [one for one in samples if ballot.support(one.signals) >= ballot.verified]
    return {
        "questions": len(samples),
        "answered_of_answerable": _share(len(answered), len(able)),
        "right_of_answered": _share(sum(one.right for one in answered), len(answered)),
        "answered_of_unanswerable": _share(
            sum(ballot.support(one.signals) >= ballot.answer for one in unable), len(unable)
        ),
        "verified": _share(len(sure), len(samples)),
        "right_of_verified": _share(sum(one.right for one in sure), len(sure)),
    }


def _share(part: int, total: int) -> float:
    return round(part / total, 3) if total else 0.0


def entry(found: Calibration, held_out: dict[str, float | int]) -> str:
    """A calibration as a table of TOML."""
    lines = [
        "[[calibration]]",
        f"scorer = {json.dumps(found.scorer)}",
        f"space = {json.dumps(found.space)}",
        f"trained = {json.dumps(found.trained)}",
        f"datasets = {json.dumps(list(found.datasets))}",
        f"date = {json.dumps(found.date)}",
        f"command = {json.dumps(found.command)}",
        f"answer = {found.ballot.answer}",
        f"verified = {found.ballot.verified}",
        f"bias = {found.ballot.bias}",
        "[calibration.votes]",
        *(
            f"{name} = {{ weight = {v.weight}, centre = {v.centre}, spread = {v.spread} }}"
            for name, v in found.ballot.votes.items()
        ),
        "[calibration.held_out]",
        *(f"{name} = {value}" for name, value in held_out.items()),
    ]
    return "\n".join(lines)


HEADER = """\
# What the signals behind an answer are worth, by cross-encoder, embedding space and language.
# Written by `make calibrate`; `held_out` is what each fit is worth on questions it did not see.
"""


def _of_line(line: str) -> tuple[str, Sample]:
    values = json.loads(line)
    asked = values["question"]
    question = Question(
        asked["id"],
        asked["text"],
        asked["answerable"],
        frozenset(asked["sources"]),
        tuple(asked["answers"]),
        {},
    )
    sample = Sample(
        question,
        values["scorer"],
        values["space"],
        values["trained"],
        Signals(**values["signals"]),
        values["right"],
    )
    return values["dataset"], sample


def ask(directories: Sequence[Path], data: Path | None, limit: int) -> Iterator[tuple[str, Sample]]:
    """Samples of each data set from the mesh, with the data set's name."""
    services = addresses(data)
    for directory in directories:
        asked = read(directory)
        with project_of(Target.find(None, data), asked.name) as target:
            documents = ingest(asked.name, asked.corpus, target)
            samples = asyncio.run(collect(asked.sample(limit), target, services, documents))
        yield from ((directory.name, sample) for sample in samples)


def calibrate(
    samples: Iterable[tuple[str, Sample]], command: str
) -> list[tuple[Calibration, dict[str, float | int]]]:
    """A calibration for each pair of models and kind of language, and what it is worth."""
    groups: dict[tuple[str, str, bool], list[tuple[str, Sample]]] = {}
    for name, sample in samples:
        groups.setdefault((sample.scorer, sample.space, sample.trained), []).append((name, sample))
    made = []
    for (scorer, space, trained), members in sorted(groups.items()):
        # Questions whose language was mistaken make no group of their own.
        if len(members) < FEWEST or not space:
            continue
        ballot = fit([sample for _, sample in members if sample.fits])
        found = Calibration(
            scorer,
            space,
            trained,
            ballot,
            sorted({name for name, _ in members}),
            datetime.now(UTC).date().isoformat(),
            command,
        )
        made.append((found, told(ballot, [sample for _, sample in members if not sample.fits])))
    return made


def main() -> int:
    """Collects, fits, prints, and with `--write` writes the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("datasets", nargs="*", type=Path)
    parser.add_argument("--data", type=Path, default=None, help="data directory of the mesh")
    parser.add_argument("--limit", type=int, default=0, help="questions of each data set")
    parser.add_argument("--samples", type=Path, default=None, help="keep the samples in this file")
    parser.add_argument("--write", action="store_true", help=f"write {calibration.FILE.name}")
    given = parser.parse_args()
    if given.datasets:
        samples = list(ask(given.datasets, given.data, given.limit))
        if given.samples is not None:
            lines = (
                json.dumps({"dataset": name, **asdict(sample)}, default=sorted)
                for name, sample in samples
            )
            given.samples.write_text("\n".join(lines) + "\n")
    elif given.samples is not None:
        samples = [_of_line(line) for line in given.samples.read_text().splitlines()]
    else:
        parser.error("name data sets, or a file of --samples that was kept")
    names = sorted({name for name, _ in samples})
    limit = f" --limit {given.limit}" if given.limit else ""
    made = calibrate(samples, f"python -m loadtest.calibrate {' '.join(names)}{limit}")
    columns = ("scorer", "trained", *made[0][1]) if made else ()
    table(columns, [(one.scorer or "-", one.trained, *of.values()) for one, of in made])
    if given.write:
        text = "\n\n".join([HEADER.rstrip(), *(entry(one, of) for one, of in made)])
        calibration.FILE.write_text(text + "\n")
    shown = [
        {"scorer": one.scorer, "space": one.space, "trained": one.trained, "held_out": of}
        for one, of in made
    ]
    print(json.dumps({"calibrations": shown}))
    return 0 if made else 1


if __name__ == "__main__":
    sys.exit(main())
