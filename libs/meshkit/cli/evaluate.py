"""`citemesh eval`: how well a mesh finds and answers, on a data set with judged answers."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshkit.cli.failure import CommandFailed
from meshkit.cli.options import Data, Url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshkit.cli.beir import Dataset, Entry
    from meshkit.cli.client import Target
    from meshkit.cli.evaluate_queries import Mode
    from meshkit.cli.questions import QuestionSet

Figures = dict[str, Any]


class ModeName(StrEnum):
    """What is asked of the mesh; `hybrid` without the cross-encoder."""

    LEXICAL = "lexical"
    DENSE = "dense"
    HYBRID = "hybrid"
    HYBRID_RERANK = "hybrid+rerank"
    ANSWERS = "answers"


class FusionName(StrEnum):
    """How the two rankings become one."""

    RRF = "rrf"
    MIN_MAX = "min_max"


Directory = Annotated[
    Path,
    typer.Argument(
        metavar="DATASET_DIR", help="Laid out as BEIR's, or questions.jsonl and a folder pdfs."
    ),
]
Modes = Annotated[
    list[ModeName] | None,
    typer.Option(
        "--mode",
        help="May be given several times.",
        show_default="the four searches; answers where it is known which questions have one",
    ),
]
Out = Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Write the figures here.")]
Split = Annotated[str, typer.Option("--split", help="Judgements qrels/SPLIT.tsv.")]
Limit = Annotated[int, typer.Option("--limit", min=0, help="Ask only so many queries; 0 asks all.")]
Rerank = Annotated[
    bool | None,
    typer.Option("--rerank/--no-rerank", help="Each mode with, or none with the cross-encoder."),
]
Fusion = Annotated[FusionName | None, typer.Option("--fusion", show_default="the project's choice")]
Clients = Annotated[
    int,
    typer.Option(
        "--clients",
        min=1,
        max=256,
        help="With more than one, also ask that many at once, and compare with one client.",
    ),
]
COLUMNS = (
    *("mode", "nDCG@10", "recall@10", "recall@50", "MRR"),
    *("p50 ms", "p95 ms", "p99 ms", "per s", "degraded"),
)
ANSWERS = "answers"


def evaluate(
    dataset_dir: Directory,
    mode: Modes = None,
    out: Out = None,
    split: Split = "test",
    limit: Limit = 0,
    rerank: Rerank = None,
    fusion: Fusion = None,
    clients: Clients = 1,
    url: Url = None,
    data: Data = None,
) -> None:
    """Upload a corpus, ask its queries and questions, compare with what is known of them.

    The corpus goes into a project `eval-NAME` of its own. The last line is one JSON object: the
    figures of the last search mode, those of each in `modes`, those of the answers in `answers`.
    """
    from meshkit.cli.beir import DatasetInvalid
    from meshkit.cli.client import Target
    from meshkit.cli.evaluate_corpus import ingest
    from meshkit.cli.evaluate_project import project_of

    try:
        dataset, questions = _read(dataset_dir, split, mode, limit)
    except DatasetInvalid as error:
        raise CommandFailed(str(error), "DATASET_INVALID") from error
    name, corpus = _corpus(dataset, questions)
    about: Figures = {"dataset": name, "documents": len(corpus)}
    measured: dict[str, Figures] = {}
    answered: Figures = {}
    with project_of(Target.find(url, data), name) as target:
        entries = ingest(name, corpus, target)
        if dataset is not None:
            about |= {"split": split, "fusion": fusion.value if fusion else "project"}
            for each in _chosen(mode, rerank):
                measured[each.name] = _search(dataset, target, entries, each, fusion, clients)
        if questions is not None:
            answered = _answers(questions, target, entries, clients)
    _report(about, measured, answered, out)


def _read(
    directory: Path, split: str, modes: list[ModeName] | None, limit: int
) -> tuple[Dataset | None, QuestionSet | None]:
    """The judged queries and the questions that are to be asked.

    Raises:
        DatasetInvalid: the directory holds nothing of what the modes ask for.
    """
    from meshkit.cli import beir, questions

    if questions.is_about_files(directory):
        if modes is not None and ModeName.ANSWERS not in modes:
            raise beir.DatasetInvalid(f"{directory} judges answers and no searches.")
        return None, questions.load(directory).sample(limit)
    dataset = beir.load(directory, split)
    answering = ModeName.ANSWERS in modes if modes else questions.has_unanswerable(dataset)
    searching = modes is None or set(modes) != {ModeName.ANSWERS}
    return (
        dataset.first(limit) if searching else None,
        questions.of_dataset(dataset).sample(limit) if answering else None,
    )


def _corpus(dataset: Dataset | None, questions: QuestionSet | None) -> tuple[str, Sequence[Entry]]:
    if dataset is not None:
        return dataset.name, dataset.corpus
    assert questions is not None  # `_read` gives one at least
    return questions.name, questions.corpus


def _chosen(names: list[ModeName] | None, rerank: bool | None) -> Sequence[Mode]:
    """The modes that are asked, each once."""
    from meshkit.cli.evaluate_queries import MODES, Mode

    modes = [each for each in MODES if names is None or ModeName(each.name) in names]
    if rerank is not None:
        modes = [
            Mode(f"{each.search}{'+rerank' if rerank else ''}", each.search, rerank)
            for each in modes
        ]
    return list(dict.fromkeys(modes))


def _search(
    dataset: Dataset,
    target: Target,
    entries: dict[str, list[str]],
    mode: Mode,
    fusion: FusionName | None,
    clients: int,
) -> Figures:
    from meshkit.cli.evaluate_queries import ask_all, figures, under_load

    rest = ask_all(dataset, target, entries, mode, fusion=fusion, clients=1)
    measured = figures(dataset, rest)
    if clients > 1:
        loaded = ask_all(dataset, target, entries, mode, fusion=fusion, clients=clients)
        measured["under_load"] = {
            "clients": clients,
            **figures(dataset, loaded),
            **under_load(dataset, rest, loaded),
        }
    return measured


def _answers(
    questions: QuestionSet, target: Target, entries: dict[str, list[str]], clients: int
) -> Figures:
    from meshkit.cli.evaluate_answers import ask_all, figures, under_load

    rest, seconds = ask_all(questions, target, entries, clients=1)
    measured = figures(rest, seconds)
    if clients > 1:
        loaded, seconds = ask_all(questions, target, entries, clients=clients)
        measured["under_load"] = {
            "clients": clients,
            **figures(loaded, seconds),
            **under_load(rest, loaded),
        }
    return measured


def _report(
    about: Figures, measured: dict[str, Figures], answered: Figures, out: Path | None
) -> None:
    from meshkit.cli.output import table

    rows = []
    for name, figures in measured.items():
        rows.append(_row(name, figures))
        if load := figures.get("under_load"):
            rows.append(_row(f"{name} x {load['clients']}", load))
    if rows:
        table(COLUMNS, rows)
    result = dict(about)
    if measured:
        last_name, last = list(measured.items())[-1]
        result |= {"mode": last_name, **last, "modes": measured}
    if answered:
        load = answered.get("under_load", {})
        columns = ("answers", "one client", *([f"{load['clients']} clients"] if load else []))
        keys = [key for key in answered if key != "under_load"]
        runs = [answered, *([load] if load else [])]
        table(columns, [(key, *(_cell(run[key]) for run in runs)) for key in keys])
        result |= {ANSWERS: answered} if measured else {"mode": ANSWERS, **answered}
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    changed = [
        name
        for name, figures in {**measured, ANSWERS: answered}.items()
        if not figures.get("under_load", {}).get("same_quality", True)
    ]
    if changed:
        raise CommandFailed(
            f"Under load {', '.join(changed)} are otherwise than at rest.", "QUALITY_UNDER_LOAD"
        )


def _row(name: str, figures: Figures) -> list[str]:
    shares = [f"{figures[key]:.4f}" for key in ("ndcg@10", "recall@10", "recall@50", "mrr")]
    times = [f"{figures[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms", "per_s")]
    return [name, *shares, *times, f"{figures['degraded_share']:.4f}"]


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(of)}" for name, of in value.items())
    return "-" if value is None else str(value)
