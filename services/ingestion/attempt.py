"""One attempt at making a version ready: read, cut, embed, index, activate.

Reading and cutting are repeated by every attempt because they are quick and give
the same result; embedding, which is neither, goes on behind the last batch that
retrieval acknowledged.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from meshkit.errors import MeshError
from meshkit.telemetry import span
from services.ingestion.blobs import BlobStore
from services.ingestion.chunking import Chunk, ChunkingPolicy, Tokenize, chunk, digest
from services.ingestion.documents import Job, Stage, title_of
from services.ingestion.extraction.model import Extracted, FileRefused
from services.ingestion.extraction.runner import Limits, extract
from services.ingestion.neighbours import Neighbours, Vectors
from services.ingestion.queue import Queue
from services.ingestion.retry import patiently

T = TypeVar("T")


class PlanChanged(Exception):
    """The cuts or the space differ from those of the chunks already indexed."""


class ChunksMissing(Exception):
    """Retrieval holds fewer chunks than it acknowledged."""


@dataclass(frozen=True, slots=True)
class AttemptPolicy:
    """How attempts are made."""

    chunking: ChunkingPolicy
    limits: Limits
    batch: int
    """Chunks embedded and indexed at once."""
    ahead: int
    """Batches of one document that are embedded ahead of the one being indexed."""
    patience_seconds: float
    """How long a call is repeated while its service is away."""


@dataclass(slots=True)
class Progress:
    """Where an attempt stands; written to the row with every extension of the lease."""

    stage: str = Stage.EXTRACT
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Tools:
    """What attempts share."""

    blobs: BlobStore
    queue: Queue
    neighbours: Neighbours
    tokenizer: Callable[[str], Tokenize]
    """The tokenizer of a space."""
    embedding: asyncio.Semaphore
    """Calls to the embedding service at the same time, over all documents."""
    policy: AttemptPolicy


class Attempt:
    """Works on one claimed version.

    Args:
        job: The version.
        tools: What attempts share.
        progress: Kept current while `run` works.
    """

    def __init__(self, job: Job, tools: Tools, progress: Progress) -> None:
        self._job = job
        self._tools = tools
        self._progress = progress

    async def run(self) -> None:
        """Makes the version ready.

        Raises:
            FileRefused: The file cannot become a document.
            LeaseLost: Another worker has it, or it is being removed.
            PlanChanged: It has to become a new version.
            ChunksMissing: It has to be indexed from the start.
            MeshError: Another service failed and patience has ended.
        """
        with span("ingestion.extract"):
            document = await self._extract()
        space = self._job.space or await self._patiently(
            lambda: self._tools.neighbours.active_space(self._job)
        )
        self._at(Stage.CHUNK)
        with span("ingestion.chunk"):
            chunks = await asyncio.to_thread(self._cut, document, space)
        title = title_of(self._job.given_title, document.title, self._job.file_name)
        await self._keep_plan(document, chunks, space, title)
        self._at(Stage.EMBED, self._job.indexed, len(chunks))
        with span("ingestion.embed", attributes={"citemesh.chunks": len(chunks)}):
            await self._embed_and_index(chunks)
        self._at(Stage.ACTIVATE, len(chunks), len(chunks))
        with span("ingestion.activate"):
            await self._activate(title, len(chunks))
        await self._tools.queue.finish(self._job)

    async def _extract(self) -> Extracted:
        self._at(Stage.EXTRACT)
        try:
            async with self._tools.blobs.local(self._job.blob_key) as path:
                return await extract(
                    path,
                    self._job.file_name,
                    self._tools.policy.limits,
                    lambda done, total: self._at(Stage.EXTRACT, done, total),
                )
        except FileNotFoundError:
            raise FileRefused(
                "FILE_MISSING", "The stored file is gone from the blob store; upload it again."
            ) from None

    def _cut(self, document: Extracted, space: str) -> list[Chunk]:
        tokenize = self._tools.tokenizer(space)
        return chunk(document, tokenize, self._tools.policy.chunking)

    async def _keep_plan(
        self, document: Extracted, chunks: Sequence[Chunk], space: str, title: str
    ) -> None:
        job, plan = self._job, digest(chunks)
        if job.indexed and job.plan_digest != plan:
            raise PlanChanged
        await self._tools.queue.plan(
            job,
            digest=plan,
            space=space,
            title=title,
            pages=len(document.pages),
            chunks=len(chunks),
            warnings=list(document.warnings),
        )
        self._job = replace(job, plan_digest=plan, space=space)

    async def _embed_and_index(self, chunks: Sequence[Chunk]) -> None:
        """Embeds batches ahead while earlier ones are indexed, in order.

        Order matters: the counter says that everything before it is indexed.
        """
        batches = iter(self._batches(chunks))
        ahead: deque[tuple[Sequence[Chunk], asyncio.Task[tuple[Vectors, list[list[str]]]]]]
        ahead = deque()

        def launch() -> None:
            batch = next(batches, None)
            if batch is not None:
                ahead.append((batch, asyncio.create_task(self._prepare(batch))))

        try:
            for _ in range(self._tools.policy.ahead):
                launch()
            while ahead:
                batch, prepared = ahead[0]
                vectors, flags = await prepared
                ahead.popleft()
                launch()
                await self._index(batch, vectors, flags)
        finally:
            tasks = [task for _, task in ahead]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _batches(self, chunks: Sequence[Chunk]) -> Iterator[Sequence[Chunk]]:
        size = self._tools.policy.batch
        for start in range(self._job.indexed, len(chunks), size):
            yield chunks[start : start + size]

    async def _prepare(self, batch: Sequence[Chunk]) -> tuple[Vectors, list[list[str]]]:
        async def embed() -> Vectors:
            async with self._tools.embedding:
                return await self._tools.neighbours.embed(self._job, self._job.space, batch)

        flags = await self._patiently(lambda: self._tools.neighbours.scan(self._job, batch))
        return await self._patiently(embed), flags

    async def _index(
        self, batch: Sequence[Chunk], vectors: Vectors, flags: Sequence[list[str]]
    ) -> None:
        await self._patiently(
            lambda: self._tools.neighbours.index(self._job, vectors, batch, flags)
        )
        count = batch[-1].ordinal + 1
        await self._patiently(lambda: self._tools.queue.indexed(self._job, count))
        self._at(Stage.EMBED, count, self._progress.total)

    async def _activate(self, title: str, count: int) -> None:
        try:
            await self._patiently(lambda: self._tools.neighbours.activate(self._job, title, count))
        except MeshError as error:
            if error.reason == "CHUNKS_MISSING":
                raise ChunksMissing from error
            raise

    def _at(self, stage: str, done: int = 0, total: int = 0) -> None:
        self._progress.stage, self._progress.done, self._progress.total = stage, done, total

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        return await patiently(call, self._tools.policy.patience_seconds)
