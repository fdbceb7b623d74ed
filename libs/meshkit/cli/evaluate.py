"""`citemesh eval`: how well a mesh finds, on a data set with judged answers."""

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

    from meshkit.cli.evaluate_queries import Mode


class ModeName(StrEnum):
    """What is asked of the mesh; `hybrid` without the cross-encoder."""

    LEXICAL = "lexical"
    DENSE = "dense"
    HYBRID = "hybrid"
    HYBRID_RERANK = "hybrid+rerank"


class FusionName(StrEnum):
    """How the two rankings become one."""

    RRF = "rrf"
    MIN_MAX = "min_max"


Directory = Annotated[Path, typer.Argument(metavar="DATASET_DIR", help="Laid out as BEIR's.")]
Modes = Annotated[
    list[ModeName] | None,
    typer.Option("--mode", help="May be given several times.", show_default="all four"),
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
    """Upload a corpus, ask its queries, compare with the judgements.

    The last line is one JSON object: the figures of the last mode, and those of each in `modes`.
    """
    from meshkit.cli.beir import DatasetInvalid, load
    from meshkit.cli.client import Target
    from meshkit.cli.evaluate_corpus import ingest
    from meshkit.cli.evaluate_queries import ask_all, figures, under_load

    try:
        dataset = load(dataset_dir, split).first(limit)
    except DatasetInvalid as error:
        raise CommandFailed(str(error), "DATASET_INVALID") from error
    target = Target.find(url, data)
    entries = ingest(dataset, target)
    measured: dict[str, dict[str, Any]] = {}
    for each in _chosen(mode, rerank):
        rest = ask_all(dataset, target, entries, each, fusion=fusion, clients=1)
        measured[each.name] = figures(dataset, rest)
        if clients > 1:
            loaded = ask_all(dataset, target, entries, each, fusion=fusion, clients=clients)
            measured[each.name]["under_load"] = {
                "clients": clients,
                **figures(dataset, loaded),
                **under_load(dataset, rest, loaded),
            }
    about = {
        "dataset": dataset.name,
        "split": dataset.split,
        "documents": len(dataset.corpus),
        "fusion": fusion.value if fusion else "project",
    }
    _report(about, measured, out)


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


def _report(about: dict[str, Any], measured: dict[str, dict[str, Any]], out: Path | None) -> None:
    from meshkit.cli.output import table

    rows = []
    for name, figures in measured.items():
        rows.append(_row(name, figures))
        if load := figures.get("under_load"):
            rows.append(_row(f"{name} x {load['clients']}", load))
    table(COLUMNS, rows)
    last_name, last = list(measured.items())[-1]
    result = {**about, "mode": last_name, **last, "modes": measured}
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    changed = [
        name
        for name, figures in measured.items()
        if not figures.get("under_load", {}).get("same_quality", True)
    ]
    if changed:
        raise CommandFailed(
            f"Under load {', '.join(changed)} ranks otherwise than at rest.", "QUALITY_UNDER_LOAD"
        )


def _row(name: str, figures: dict[str, Any]) -> list[str]:
    shares = [f"{figures[key]:.4f}" for key in ("ndcg@10", "recall@10", "recall@50", "mrr")]
    times = [f"{figures[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms", "per_s")]
    return [name, *shares, *times, f"{figures['degraded_share']:.4f}"]
