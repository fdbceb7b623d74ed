"""Hits: what a search returns, and why each stands where it stands. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.retrieval.candidates import Candidates
from services.retrieval.fusion import Fused
from services.retrieval.lexical import LexicalHits
from services.retrieval.passages import Chunk


@dataclass(frozen=True, slots=True)
class Signals:
    """Why a hit stands where it stands; rank 0 means not in that list."""

    dense_rank: int
    dense_similarity: float
    lexical_rank: int
    lexical_score: float
    fused_rank: int
    rerank_score: float | None


@dataclass(frozen=True, slots=True)
class Hit:
    """A found passage."""

    chunk: Chunk
    score: float
    signals: Signals
    context: str = ""


def visible(lexical: LexicalHits | None, candidates: Candidates) -> LexicalHits | None:
    """The lexical list without what Postgres did not let pass."""
    if lexical is None or len(lexical.keys) == len(candidates.lexical_keys):
        return lexical
    scores = dict(zip(lexical.keys, lexical.scores, strict=True))
    keys = list(candidates.lexical_keys)
    return LexicalHits(keys, [scores[key] for key in keys])


def hits_of(
    order: Sequence[Fused],
    candidates: Candidates,
    lexical: LexicalHits | None,
    fused: Sequence[Fused],
    opinions: Mapping[int, float],
) -> list[Hit]:
    """The hits of an order, each with its place in the lists that led to it.

    Args:
        order: What to show, best first; the row of each is among the candidates.
        candidates: What the dense list held, and the rows.
        lexical: The lexical list; None when there was none.
        fused: The order before the cross-encoder.
        opinions: What the cross-encoder said, by key.
    """
    dense_ranks = {key: rank for rank, key in enumerate(candidates.dense_keys)}
    lexical_ranks = {key: rank for rank, key in enumerate(lexical.keys)} if lexical else {}
    fused_ranks = {item.key: rank for rank, item in enumerate(fused, start=1)}
    hits = []
    for item in order:
        dense, word = dense_ranks.get(item.key), lexical_ranks.get(item.key)
        signals = Signals(
            dense_rank=0 if dense is None else dense + 1,
            dense_similarity=0.0 if dense is None else candidates.similarities[dense],
            lexical_rank=0 if word is None else word + 1,
            lexical_score=0.0 if word is None or lexical is None else lexical.scores[word],
            fused_rank=fused_ranks[item.key],
            rerank_score=opinions.get(item.key),
        )
        hits.append(Hit(candidates.chunk(item.key), item.score, signals))
    return hits
