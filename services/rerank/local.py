"""The cross-encoder that needs no key and no network: weights run in this process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from meshkit.weights import Weights
from meshkit.weights.onnx import OnnxModel
from meshkit.weights.threads import ModelThreads
from services.rerank.ranking import Scored
from services.rerank.reranker import Reading
from services.rerank.window import best_window

SPECIAL_TOKENS = 3
QUERY_SHARE = 4
"""A query takes at most this fraction of what the model reads: a passage must fit beside it."""


class LocalReranker:
    """See `Reranker`. One pair at a time on each thread.

    A score therefore depends on its pair alone (int8 scales would depend on the
    batch), and pairs are started in the caller's order, so that a deadline leaves
    out what the caller ranked last.

    Args:
        weights: The model's files.
        threads: Where it runs; closed by whoever opened them.
        window_tokens: Tokens of a passage's best window.
    """

    provider = "local"
    patience_seconds = 0.25

    def __init__(self, weights: Weights, threads: ModelThreads, *, window_tokens: int) -> None:
        self.model = weights.spec.name
        self._onnx = OnnxModel(weights)
        self._threads = threads
        self._window = window_tokens
        self._limit = weights.spec.max_tokens
        self.languages = weights.spec.languages

    def estimate_micro_usd(self, _query: str, _passages: Sequence[str], /) -> int:
        """Nothing: the machine is already paid for."""
        return 0

    async def score(
        self, query: str, passages: Sequence[str], *, whole: bool, until: float | None
    ) -> Reading:
        """See `Reranker.score`; stops between two pairs."""
        asked = self._onnx.tokens(query)[: self._limit // QUERY_SHARE]
        step = partial(self._score_pair, asked, whole)
        read = await self._threads.each(step, passages, until=until)
        scored = [Scored(i, pair[0]) for i, pair in enumerate(read) if pair is not None]
        tokens = sum(pair[1] for pair in read if pair is not None)
        return Reading(scored, tokens)

    def _score_pair(self, query: Sequence[int], whole: bool, passage: str) -> tuple[float, int]:
        tokens = self._onnx.tokens(passage)
        room = self._limit - SPECIAL_TOKENS - len(query)
        part = slice(0, room) if whole else best_window(tokens, query, min(self._window, room))
        output, read = self._onnx.run(query, tokens[part])
        return float(output[0]), read

    async def close(self) -> None:
        """Nothing to give back: the threads belong to the process."""
