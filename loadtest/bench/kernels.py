"""The floor: the same models and indexes, called without a mesh around them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from meshkit.weights import ensure
from meshkit.weights.threads import ModelThreads
from services.embedding.embedder import Task
from services.embedding.local import LocalEmbedder
from services.embedding.spaces import parse_name
from services.rerank.local import LocalReranker
from services.retrieval.lexical import (
    Changes,
    LexicalChunk,
    LexicalQuery,
    LexicalVersion,
    VersionKey,
)
from services.retrieval.lexical.tantivy_index import TantivyIndex

SPACE = "local/bge-small-en-v1.5@384"
RERANKER = "ms-marco-MiniLM-L-12-v2"
DEPTH = 50
RERANKED, WINDOW_TOKENS = 4, 64
"""What the cross-encoder reads of a search, by the services' defaults."""
PROJECT = "bench"


@dataclass(slots=True)
class Lookup:
    """Milliseconds of one bare search."""

    embed: float
    dense: float
    lexical: float

    @property
    def floor(self) -> float:
        """What a perfect mesh would take: the lookups in parallel, after the embedding."""
        return self.embed + max(self.dense, self.lexical)


class Kernels:
    """Embedder, cross-encoder, dense table and lexical index in this process."""

    def __init__(self, dense: asyncpg.Connection[Any], table: str) -> None:
        name = parse_name(SPACE)
        weights = ensure([name.model, RERANKER])
        self._threads = ModelThreads(2, "bench")
        self.embedder = LocalEmbedder(name, weights[name.model], self._threads)
        self.reranker = LocalReranker(weights[RERANKER], self._threads, window_tokens=WINDOW_TOKENS)
        self._dense = dense
        self.table = table
        self._statement = (
            f"SELECT chunk_key FROM {table} "  # noqa: S608  # the name comes from the registry
            f"ORDER BY embedding <=> $1::real[]::public.halfvec(384) LIMIT {DEPTH}"
        )
        self._lexical = TantivyIndex(None)

    async def fill(self, texts: Sequence[str]) -> None:
        """Puts the mesh's own chunk texts into the lexical index."""
        chunks = [LexicalChunk(number, text, (), "en") for number, text in enumerate(texts)]
        version = LexicalVersion(VersionKey(PROJECT, "doc", 1), "", {}, (), chunks)
        await self._lexical.apply(Changes(replace=[version]))
        await self._dense.execute("SET hnsw.ef_search = 100")

    async def search(self, query: str) -> Lookup:
        """One bare search, each part timed."""
        t0 = time.perf_counter()
        vector = (await self.embedder.embed([query], Task.QUERY)).vectors[0]
        t1 = time.perf_counter()
        await self._dense.fetch(self._statement, vector.tolist())
        t2 = time.perf_counter()
        self._lexical.search_now(LexicalQuery(query, PROJECT, (), DEPTH, {}, ()))
        t3 = time.perf_counter()
        return Lookup((t1 - t0) * 1e3, (t2 - t1) * 1e3, (t3 - t2) * 1e3)

    async def rerank(self, query: str, texts: Sequence[str]) -> float:
        """Milliseconds to score the windows of some passages."""
        started = time.perf_counter()
        await self.reranker.score(query, texts, whole=False, until=None)
        return (time.perf_counter() - started) * 1e3

    async def embed_all(self, texts: Sequence[str]) -> float:
        """Seconds to embed texts as documents, on as many threads as the bulk lane has."""
        started = time.perf_counter()
        await self.embedder.embed(texts, Task.DOCUMENT)
        return time.perf_counter() - started

    def close(self) -> None:
        """Ends the threads."""
        self._threads.close()


@asynccontextmanager
async def open_kernels(admin_dsn: str) -> AsyncIterator[Kernels]:
    """Kernels over the mesh's own dense table."""
    connection = await asyncpg.connect(admin_dsn)
    try:
        number = await connection.fetchval(
            "SELECT number FROM retrieval.space_table WHERE space = $1", SPACE
        )
        kernels = Kernels(connection, f"retrieval.dense_{number}")
        try:
            yield kernels
        finally:
            kernels.close()
    finally:
        await connection.close()
