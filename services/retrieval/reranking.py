"""The stage in which a cross-encoder reads the best hits, within its share of the deadline.

It is asked only where its opinion can count: not about a query in a language that
it was not trained for.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from meshkit.coverage import covers
from meshkit.language import Language
from services.retrieval.candidates import Candidates
from services.retrieval.fusion import Fused
from services.retrieval.mixing import mix
from services.retrieval.settings import RetrievalSettings
from services.retrieval.stages import SURVIVABLE, Run, share_of_deadline
from services.retrieval.upstream import Reranker

PATIENCE_SECONDS = 0.25
"""Longest wait for a reranker that has not said yet how long it may take."""


@dataclass(frozen=True, slots=True)
class Reranked:
    """An order, and the opinions that led to it."""

    order: Sequence[Fused]
    opinions: Mapping[int, float]
    """Probability that the passage answers, by key; empty when nobody was asked."""


class Reranking:
    """Asks the reranker and mixes what it says with the fused order.

    Args:
        settings: How many hits are read, for how long, and what an opinion weighs.
        reranker: Who reads.
    """

    def __init__(self, settings: RetrievalSettings, reranker: Reranker) -> None:
        self._settings = settings
        self._reranker = reranker
        self._languages: Collection[str] = ()
        """Of models that may be asked; empty where one knows any, and before the first answer."""
        self._patience = PATIENCE_SECONDS

    def read(self, language: Language) -> int:
        """How many fused hits would be read for a query in this language."""
        settings = self._settings
        useful = settings.rerank_weight > 0 and covers(self._languages, language)
        return settings.rerank_candidates if useful else 0

    async def reorder(
        self, text: str, language: Language, fused: Sequence[Fused], found: Candidates, run: Run
    ) -> Reranked:
        """The fused order with second opinions; unchanged where there is none.

        Args:
            text: The query.
            language: Of the query.
            fused: Best first.
            found: Rows of the best ones.
            run: Where time, usage and a failure are noted.
        """
        passages = [
            (item.key, found.rows[item.key]["body"])
            for item in fused[: self.read(language)]
            if item.key in found.rows
        ]
        if not passages:
            return Reranked(fused, {})
        settings = self._settings
        started = time.perf_counter()
        longest = settings.rerank_seconds or self._patience
        seconds = share_of_deadline(longest, settings.rerank_share)
        try:
            opinion = await self._reranker.score(text, passages, seconds=seconds)
        except SURVIVABLE as error:
            run.without("rerank", error)
            return Reranked(fused, {})
        finally:
            run.took("rerank", started)
        run.spent(opinion.usage)
        if not opinion.complete:
            run.degraded.append("rerank")
        # What it says of itself holds for the next query; it may be another one after a restart.
        self._languages = opinion.known_languages
        self._patience = opinion.patience_seconds or PATIENCE_SECONDS
        if not covers(opinion.languages, language):
            # The first query since the start, or one that another provider stood in for.
            return Reranked(fused, {})
        return Reranked(
            mix(fused, opinion.probabilities, settings.rerank_weight), opinion.probabilities
        )
