"""A retrieval room for tests: real Postgres as its runtime role, a real lexical index."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np

from meshkit.database.pool import Database
from meshkit.errors import MeshError, Unavailable
from services.retrieval import garbage
from services.retrieval.candidates import Viewer
from services.retrieval.lexical.home import Home, open_home, open_index
from services.retrieval.outbox import LexicalProjection
from services.retrieval.passages import ChunkDraft, Location, Presentation, Vectors, Version
from services.retrieval.rebuild import Rebuilds
from services.retrieval.search import Found, Query, Searcher
from services.retrieval.settings import RetrievalSettings
from services.retrieval.spaces import SpaceTables
from services.retrieval.upstream import QueryVector, SecondOpinion
from services.retrieval.versions import Corpus

DIMENSIONS = 32
SPACE = f"test/unit@{DIMENSIONS}"

NOBODY: tuple[str, ...] = ()


def vector_of(text: str, dimensions: int = DIMENSIONS) -> Vectors:
    """A direction that texts with the same words share; enough to rank by."""
    total = np.zeros(dimensions, dtype=np.float32)
    for word in text.lower().split():
        seed = int.from_bytes(word.encode()[:8].ljust(8, b"\0"), "big")
        total += np.random.default_rng(seed).normal(size=dimensions).astype(np.float32)
    norm = float(np.linalg.norm(total))
    return total / norm if norm else np.eye(dimensions, dtype=np.float32)[0]


@dataclass
class Embedder:
    """Embeds by `vector_of`, unless told to fail."""

    error: MeshError | None = None
    space: str = SPACE

    async def embed_query(self, text: str, *, seconds: float, bypass_cache: bool) -> QueryVector:
        if self.error is not None:
            raise self.error
        return QueryVector(vector_of(text), self.space)


@dataclass
class Reranker:
    """Prefers the texts that hold `likes`, unless told to fail."""

    likes: str = ""
    error: MeshError | None = None
    complete: bool = True
    languages: tuple[str, ...] = ()
    known: tuple[str, ...] | None = None
    """Of any model it has; None is those of `languages`."""
    patience: float = 0.0
    seconds: list[float] = field(default_factory=list)

    async def score(
        self, query: str, passages: Sequence[tuple[int, str]], *, seconds: float
    ) -> SecondOpinion:
        self.seconds.append(seconds)
        if self.error is not None:
            raise self.error
        liked = {key: 0.95 if self.likes and self.likes in text else 0.05 for key, text in passages}
        known = self.languages if self.known is None else self.known
        return SecondOpinion(liked, self.complete, self.languages, known, self.patience)


DOWN = Unavailable("SERVICE_UNAVAILABLE", "down")


@dataclass
class Room:
    """Everything of the service but its process."""

    database: Database
    projection: LexicalProjection
    home: Home
    spaces: SpaceTables
    corpus: Corpus
    searcher: Searcher
    rebuilds: Rebuilds
    embedder: Embedder
    reranker: Reranker
    owner: asyncpg.Connection

    async def write(
        self,
        project: str,
        document: str,
        texts: Sequence[str],
        *,
        version: int = 1,
        lease: int = 1,
        space: str = SPACE,
        vectors: Vectors | None = None,
        ordinals: Sequence[int] | None = None,
        flags: Mapping[int, Sequence[str]] | None = None,
    ) -> int:
        """Indexes chunks whose spans follow each other."""
        start, drafts = 0, []
        for ordinal, text in zip(ordinals or range(len(texts)), texts, strict=True):
            place = Location(1, 1, ("Heading",), start, start + len(text), "")
            found = (flags or {}).get(ordinal, ())
            drafts.append(ChunkDraft(ordinal, text, place, len(text.split()), "en", found))
            start += len(text)
        if vectors is None:
            vectors = np.array([vector_of(text) for text in texts])
        return await self.corpus.index_chunks(
            project, Version(document, version, lease), space, drafts, vectors
        )

    async def activate(
        self,
        project: str,
        document: str,
        count: int,
        *,
        version: int = 1,
        lease: int = 1,
        allow: Sequence[str] = (),
        labels: dict[str, str] | None = None,
        title: str = "A title",
    ) -> int:
        show = Presentation(title, labels or {}, list(allow), "text/plain")
        return await self.corpus.activate(project, Version(document, version, lease), show, count)

    async def add(
        self,
        project: str,
        document: str,
        texts: Sequence[str],
        *,
        version: int = 1,
        lease: int = 1,
        allow: Sequence[str] = (),
        labels: dict[str, str] | None = None,
        title: str = "A title",
    ) -> int:
        """Writes and activates."""
        await self.write(project, document, texts, version=version, lease=lease)
        return await self.activate(
            project,
            document,
            len(texts),
            version=version,
            lease=lease,
            allow=allow,
            labels=labels,
            title=title,
        )

    async def search(
        self, project: str, query: Query | str, principals: Sequence[str] = NOBODY
    ) -> Found:
        if isinstance(query, str):
            query = Query(query, rerank=False)
        return await self.searcher.search(Viewer(project, principals), query)

    async def found(
        self, project: str, query: Query | str, principals: Sequence[str] = NOBODY
    ) -> list[str]:
        """Texts of the hits."""
        return [hit.chunk.text for hit in (await self.search(project, query, principals)).hits]

    async def settle(self) -> None:
        """Lets the background work of now be done."""
        while await self.projection.drain():
            continue
        while await garbage.collect(self.database, 7):
            continue


def project_id() -> str:
    return f"prj_{uuid.uuid4().hex}"


@asynccontextmanager
async def open_room(
    dsn: str,
    owner_dsn: str,
    directory: Path,
    embedder: Any = None,
    wake: Sequence[asyncio.Event] = (),
) -> AsyncIterator[Room]:
    """A room over a migrated Postgres; `wake` is set when there may be work."""
    # A loaded machine is no lexical index that fails.
    settings = RetrievalSettings(lexical_seconds=60.0)
    database = await Database.connect(dsn, role="citemesh_retrieval", size=6)
    owner = await asyncpg.connect(owner_dsn)
    home = await open_home(directory, database)
    projection = LexicalProjection(database, await open_index(home, database))
    spaces = SpaceTables(database)
    embedder, reranker = embedder or Embedder(), Reranker()
    rebuilds = Rebuilds(home, database, projection)
    room = Room(
        database=database,
        projection=projection,
        home=home,
        spaces=spaces,
        corpus=Corpus(database, spaces, projection, wake),
        searcher=Searcher(settings, database, spaces, projection, embedder, reranker),
        rebuilds=rebuilds,
        embedder=embedder,
        reranker=reranker,
        owner=owner,
    )
    try:
        yield room
    finally:
        await rebuilds.close()
        await projection.close()
        await asyncio.gather(database.close(), owner.close())
