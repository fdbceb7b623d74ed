"""`citemesh eval`: how well a mesh finds, on a data set with judged answers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshkit.cli.failure import CommandFailed
from meshkit.cli.options import Data, Url
from meshkit.cli.search import Mode, ModeOption

if TYPE_CHECKING:
    from meshkit.cli.beir import Dataset
    from meshkit.cli.client import Client, Target

Directory = Annotated[Path, typer.Argument(metavar="DATASET_DIR", help="Laid out as BEIR's.")]
Out = Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Write the figures here.")]
Split = Annotated[str, typer.Option("--split", help="Judgements qrels/SPLIT.tsv.")]
Limit = Annotated[int, typer.Option("--limit", min=0, help="Ask only so many queries; 0 asks all.")]
Rerank = Annotated[bool, typer.Option("--rerank/--no-rerank", help="Use the cross-encoder.")]
Fusion = Annotated[str, typer.Option("--fusion", help="rrf or min_max.")]
TOP_K = 100
"""Passages asked for, so that 50 documents are left when several passages are of one."""
LABEL = "eval"


def evaluate(
    dataset_dir: Directory,
    mode: ModeOption = Mode.HYBRID,
    out: Out = None,
    split: Split = "test",
    limit: Limit = 0,
    rerank: Rerank = True,
    fusion: Fusion = "rrf",
    url: Url = None,
    data: Data = None,
) -> None:
    """Upload a corpus, ask its queries, compare with the judgements."""
    from meshkit.cli.beir import DatasetInvalid, load
    from meshkit.cli.client import Client, Target
    from meshkit.cli.output import table

    try:
        dataset = load(dataset_dir, split)
    except DatasetInvalid as error:
        raise CommandFailed(str(error), "DATASET_INVALID") from error
    target = Target.find(url, data)
    entries = _ingest(dataset, target)
    asked = {"mode": mode.value, "rerank": rerank, "fusion": fusion}
    with Client(target) as client:
        figures = _ask_all(dataset, client, entries, asked, limit)
    figures = {"dataset": dataset.name, **asked, **figures}
    rows = [(k, f"{v:.4f}" if isinstance(v, float) else v) for k, v in figures.items()]
    table(("figure", "value"), rows)
    if out is not None:
        out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


def _ingest(dataset: Dataset, target: Target) -> dict[str, list[str]]:
    """Uploads the corpus and waits until it is searchable; corpus ids by document id.

    What is in the mesh already (the same content) is not processed again.
    """
    import asyncio

    import httpx

    from meshkit.cli.output import note
    from meshkit.cli.progress import UploadProgress
    from meshkit.cli.upload import Upload, upload_all

    uploads = [
        Upload(f"{entry.id}.txt", None, entry.as_file(), entry.title, {LABEL: dataset.name})
        for entry in dataset.corpus
    ]
    began = time.monotonic()

    async def run() -> None:
        async with httpx.AsyncClient(**target.arguments()) as client:
            with UploadProgress(uploads, wait=True, quiet=len(uploads) > 1000) as progress:
                await upload_all(client, uploads, progress.changed, wait=True)

    asyncio.run(run())
    entries: dict[str, list[str]] = {}
    for entry, item in zip(dataset.corpus, uploads, strict=True):
        if item.state != "ready":
            reason, detail = item.reason()
            raise CommandFailed(f"{entry.id} cannot be ingested: {detail}", reason or "NOT_READY")
        entries.setdefault(str(item.document["id"]), []).append(entry.id)
    note(f"{len(uploads)} texts are searchable after {time.monotonic() - began:.0f} s")
    return entries


def _ask_all(
    dataset: Dataset,
    client: Client,
    entries: dict[str, list[str]],
    asked: dict[str, Any],
    limit: int,
) -> dict[str, Any]:
    from meshkit.cli.metrics import ndcg, percentile, recall, reciprocal_rank

    names = list(dataset.queries)[: limit or None]
    scores: list[tuple[float, float, float, float]] = []
    times: list[float] = []
    degraded = 0
    for name in names:
        request = {
            "query": dataset.queries[name],
            "top_k": TOP_K,
            "filter": {"labels": {LABEL: dataset.name}},
            "bypass_cache": True,
            **asked,
        }
        began = time.perf_counter()
        found = client.request("POST", "/v1/search", json=request)
        times.append((time.perf_counter() - began) * 1000)
        degraded += bool(found["degraded"])
        ranked = ranking(found["hits"], entries)
        judged = dataset.relevance[name]
        scores.append(
            (
                ndcg(ranked, judged, 10),
                recall(ranked, judged, 10),
                recall(ranked, judged, 50),
                reciprocal_rank(ranked, judged),
            )
        )
    means = [sum(column) / len(column) for column in zip(*scores, strict=True)]
    return {
        "queries": len(names),
        "documents": len(dataset.corpus),
        "ndcg@10": round(means[0], 4),
        "recall@10": round(means[1], 4),
        "recall@50": round(means[2], 4),
        "mrr": round(means[3], 4),
        "p50_ms": round(percentile(times, 0.5), 2),
        "p95_ms": round(percentile(times, 0.95), 2),
        "degraded_share": round(degraded / len(names), 4),
    }


def ranking(hits: list[dict[str, Any]], entries: dict[str, list[str]]) -> list[str]:
    """Corpus ids in the order their documents are found first; several passages count once."""
    seen: dict[str, None] = {}
    for hit in hits:
        seen |= dict.fromkeys(entries.get(hit["document_id"], []))
    return list(seen)
