"""What operators see of searches: their stages, and whether what is found gets worse."""

from __future__ import annotations

from collections.abc import Mapping

from meshkit.telemetry import metrics
from services.retrieval.candidates import Candidates
from services.retrieval.lexical import LexicalHits
from services.retrieval.passages import Mode
from services.retrieval.stages import TOTAL, Run

PIPELINE = "search"
DEPTH = 10
"""Hits of each list whose overlap is looked at."""

_duration = metrics.histogram("citemesh.retrieval.duration")
_similarity = metrics.histogram("citemesh.retrieval.similarity")
_lexical_score = metrics.histogram("citemesh.retrieval.lexical_score")
_rerank_score = metrics.histogram("citemesh.retrieval.rerank_score")
_overlap = metrics.histogram("citemesh.retrieval.overlap")
_empty = metrics.counter("citemesh.retrieval.empty")


def searched(
    run: Run,
    mode: Mode,
    candidates: Candidates,
    lexical: LexicalHits | None,
    opinions: Mapping[int, float],
    hits: int,
) -> None:
    """Notes a search that has an answer.

    Of each list the best score counts: it is what falls when an index, a model or the
    documents no longer fit the questions. Only searches that ask both lists are looked at.

    Args:
        run: Its clock, and what it did without.
        mode: Which lists were asked.
        candidates: The dense list.
        lexical: The lexical list; None when there was none.
        opinions: What the cross-encoder said.
        hits: How many were returned.
    """
    for stage, milliseconds in run.timings.items():
        if stage == TOTAL:
            _duration.record(milliseconds / 1000, {"mode": mode.value})
        else:
            metrics.stage_took(PIPELINE, stage, milliseconds / 1000)
    for stage in run.degraded:
        metrics.went_without(PIPELINE, stage)
    if mode is not Mode.HYBRID:
        return
    dense = candidates.dense_keys[:DEPTH]
    words = lexical.keys[:DEPTH] if lexical else []
    if dense:
        _similarity.record(candidates.similarities[0])
    if lexical and words:
        _lexical_score.record(lexical.scores[0])
    if dense and words:
        shared = len(set(dense).intersection(words))
        _overlap.record(shared / min(len(dense), len(words)))
    if opinions:
        _rerank_score.record(max(opinions.values()))
    if not hits:
        _empty.add(1)
