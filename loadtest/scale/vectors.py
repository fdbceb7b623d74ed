"""Synthetic vectors that lie as those of real chunks do.

Measured on 2,581 chunks of twelve 10-Q filings with bge-small-en-v1.5: two chunks have
a cosine of .62 on average, because all share a direction of length .785; what is left
spreads over about 44 dimensions (participation ratio), with a spectrum that falls like
1/(i+2)^1.1. Here a chunk's own part is that of its topic, its document and itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

DIMENSIONS = 384
SHARED = 0.785
"""Length of the direction that all chunks share."""
TOPIC, DOCUMENT, CHUNK = 0.55, 0.25, 0.2
"""Shares of the rest's variance."""
ASKED = 0.7
"""How much of a question's own part is that of the chunk it asks for."""
CHUNKS_PER_DOCUMENT = 50
CHUNKS_PER_TOPIC = 500
BATCH = 20_000


@dataclass(frozen=True, slots=True)
class Corpus:
    """Vectors of documents, a few thousand at a time, the same for the same seed."""

    rows: int
    seed: int = 5

    def batches(self) -> Iterator[Floats]:
        """Unit vectors `[<= 20000, 384]`, documents whole and in their order."""
        random = np.random.default_rng(self.seed)
        topics = _spread(random, max(1, self.rows // CHUNKS_PER_TOPIC))
        for begin in range(0, self.rows, BATCH):
            count = min(BATCH, self.rows - begin)
            documents = -(-count // CHUNKS_PER_DOCUMENT)
            topic = topics[random.integers(len(topics), size=documents)]
            own = np.sqrt(TOPIC) * topic + np.sqrt(DOCUMENT) * _spread(random, documents)
            own = np.repeat(own, CHUNKS_PER_DOCUMENT, axis=0)[:count]
            yield _unit(own + np.sqrt(CHUNK) * _spread(random, count))

    def questions(self, vectors: Floats, seed: int) -> Floats:
        """A question near each of some chunks' vectors."""
        random = np.random.default_rng(seed)
        own = (vectors - _shared()) / np.sqrt(1 - SHARED**2)
        fresh = _spread(random, len(vectors))
        return _unit(np.sqrt(ASKED) * own + np.sqrt(1 - ASKED) * fresh)


def _spectrum() -> NDArray[np.float64]:
    falling = (np.arange(DIMENSIONS) + 2.0) ** -1.1
    spread: NDArray[np.float64] = np.sqrt(falling / falling.sum())
    return spread


def _shared() -> Floats:
    return np.full(DIMENSIONS, SHARED / np.sqrt(DIMENSIONS), dtype=np.float32)


def _spread(random: np.random.Generator, count: int) -> Floats:
    """Directions of about unit length with the spectrum of real ones."""
    normal = random.standard_normal((count, DIMENSIONS), dtype=np.float32)
    return normal * _spectrum().astype(np.float32)


def _unit(own: Any) -> Floats:
    vectors = _shared() + np.float32(np.sqrt(1 - SHARED**2)) * own.astype(np.float32)
    found: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def project_sizes(rows: int, projects: int) -> list[int]:
    """Rows of each project, largest first: sizes fall like 1/rank, none below one document."""
    documents = rows // CHUNKS_PER_DOCUMENT
    projects = min(projects, documents)
    weights = 1.0 / np.arange(1, projects + 1)
    counts = 1 + np.floor((documents - projects) * weights / weights.sum()).astype(int)
    counts[0] += documents - counts.sum()
    sizes = [int(count) * CHUNKS_PER_DOCUMENT for count in counts]
    sizes[0] += rows - sum(sizes)
    return sizes
