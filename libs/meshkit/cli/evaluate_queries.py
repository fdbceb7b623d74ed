"""Asking a data set's queries of a running mesh, and what its answers are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshkit.cli.beir import Dataset
from meshkit.cli.client import Client, Json, Target
from meshkit.cli.evaluate_asking import in_turn, patiently
from meshkit.cli.evaluate_corpus import LABEL, ranking
from meshkit.cli.metrics import ndcg, percentile, recall, reciprocal_rank

TOP_K = 100
"""Passages asked for, so that 50 documents are left when several passages are of one."""
DIGITS = 4


@dataclass(frozen=True, slots=True)
class Mode:
    """How the mesh is asked to find."""

    name: str
    search: str
    """`lexical`, `dense` or `hybrid`."""
    rerank: bool


MODES = (
    Mode("lexical", "lexical", False),
    Mode("dense", "dense", False),
    Mode("hybrid", "hybrid", False),
    Mode("hybrid+rerank", "hybrid", True),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What one query gave."""

    query: str
    """Its id."""
    hits: Sequence[Json]
    ranked: Sequence[str]
    """Corpus ids, best first."""
    milliseconds: float
    """From sending the request to having read the response."""
    degraded: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """What all queries gave, in their order, and how long that took."""

    asked: Sequence[Asked]
    seconds: float


def ask_all(
    dataset: Dataset,
    target: Target,
    entries: dict[str, list[str]],
    mode: Mode,
    *,
    fusion: str | None,
    clients: int,
) -> Measured:
    """Asks every query once, `clients` at a time.

    Raises:
        CommandFailed: the mesh refuses a query, or stays busy.
    """

    def ask(client: Client, name: str) -> Asked:
        took, answer = patiently(client, "/v1/search", _body(dataset, name, mode, fusion))
        hits = answer["hits"]
        return Asked(name, hits, ranking(hits, entries), took, bool(answer["degraded"]))

    asked, seconds = in_turn(
        target,
        list(dataset.queries),
        ask,
        clients=clients,
        about=f"{dataset.name}: {mode.name}",
    )
    return Measured(asked, seconds)


def _body(dataset: Dataset, name: str, mode: Mode, fusion: str | None) -> Json:
    body: Json = {
        "query": dataset.asked[name],
        "top_k": TOP_K,
        "mode": mode.search,
        "rerank": mode.rerank,
        "filter": {"labels": {LABEL: dataset.name}},
        "bypass_cache": True,
    }
    return body | ({"fusion": fusion} if fusion else {})


def figures(dataset: Dataset, measured: Measured) -> dict[str, Any]:
    """The means over all queries, and the times."""
    asked = measured.asked
    times = [each.milliseconds for each in asked]
    scores = [_scores(each.ranked, dataset.relevance[each.query]) for each in asked]
    means = [sum(column) / len(column) for column in zip(*scores, strict=True)]
    names = ("ndcg@10", "recall@10", "recall@50", "mrr")
    return {
        "queries": len(asked),
        **{name: round(mean, DIGITS) for name, mean in zip(names, means, strict=True)},
        "p50_ms": round(percentile(times, 0.5), 2),
        "p95_ms": round(percentile(times, 0.95), 2),
        "p99_ms": round(percentile(times, 0.99), 2),
        "per_s": round(len(asked) / measured.seconds, 1),
        "degraded_share": round(sum(each.degraded for each in asked) / len(asked), DIGITS),
    }


def _scores(ranked: Sequence[str], judged: Mapping[str, int]) -> tuple[float, float, float, float]:
    return (
        ndcg(ranked, judged, 10),
        recall(ranked, judged, 10),
        recall(ranked, judged, 50),
        reciprocal_rank(ranked, judged),
    )


def under_load(dataset: Dataset, rest: Measured, load: Measured) -> dict[str, Any]:
    """Whether what was answered in full under load is what is answered at rest.

    Compares the queries that were degraded in neither run.
    """
    pairs = [
        (one, other)
        for one, other in zip(rest.asked, load.asked, strict=True)
        if not one.degraded and not other.degraded
    ]
    values = [
        [ndcg(each.ranked, dataset.relevance[each.query], 10) for each in run]
        for run in zip(*pairs, strict=True)
    ] or [[], []]
    at_rest, loaded = (round(sum(run) / len(run), DIGITS) if run else None for run in values)
    return {
        "undegraded_queries": len(pairs),
        "ndcg@10_at_rest": at_rest,
        "ndcg@10_under_load": loaded,
        "same_quality": at_rest == loaded,
    }
