"""Asking a data set's queries of a running mesh, and what its answers are worth."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

from meshkit.cli.beir import Dataset
from meshkit.cli.client import Client, Json, Target
from meshkit.cli.evaluate_corpus import LABEL, bar, ranking
from meshkit.cli.failure import CommandFailed
from meshkit.cli.metrics import ndcg, percentile, recall, reciprocal_rank

TOP_K = 100
"""Passages asked for, so that 50 documents are left when several passages are of one."""
ATTEMPTS = 6
BUSY = {429, 503}
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
    """Asks every query once, `clients` at a time, each over a connection of its own.

    Raises:
        CommandFailed: the mesh refuses a query, or stays busy.
    """
    names = list(dataset.queries)
    waiting = iter(names)
    lock = Lock()
    found: dict[str, Asked] = {}
    at_once = f" x {clients}" if clients > 1 else ""
    with bar() as progress:
        task = progress.add_task(f"{dataset.name}: {mode.name}{at_once}", total=len(names))

        def ask_in_turn() -> None:
            with Client(target) as client:
                while True:
                    with lock:
                        name = next(waiting, None)
                    if name is None:
                        return
                    body = _body(dataset, name, mode, fusion)
                    began, answer = _patiently(client, body)
                    took = (time.perf_counter() - began) * 1000
                    ranked = ranking(answer["hits"], entries)
                    found[name] = Asked(
                        name, answer["hits"], ranked, took, bool(answer["degraded"])
                    )
                    progress.advance(task)

        began = time.perf_counter()
        _at_once(clients, ask_in_turn)
        seconds = time.perf_counter() - began
    return Measured([found[name] for name in names], seconds)


def _body(dataset: Dataset, name: str, mode: Mode, fusion: str | None) -> Json:
    body: Json = {
        "query": dataset.queries[name],
        "top_k": TOP_K,
        "mode": mode.search,
        "rerank": mode.rerank,
        "filter": {"labels": {LABEL: dataset.name}},
        "bypass_cache": True,
    }
    return body | ({"fusion": fusion} if fusion else {})


def _patiently(client: Client, body: Json) -> tuple[float, Json]:
    """When the call that was answered began, and its answer; a busy mesh is asked again."""
    for attempt in range(ATTEMPTS):
        began = time.perf_counter()
        try:
            return began, client.request("POST", "/v1/search", json=body)
        except CommandFailed as failure:
            if failure.status not in BUSY or attempt == ATTEMPTS - 1:
                raise
            time.sleep(2**attempt / 4)
    raise AssertionError("the last attempt returns or raises")


def _at_once(count: int, work: Callable[[], None]) -> None:
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(work) for _ in range(count)]:
            done.result()


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
