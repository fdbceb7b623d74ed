"""One attempt at making a version ready: read, cut, embed, index, activate.

Reading and cutting are repeated by every attempt because they are quick and give
the same result; embedding, which is neither, is done for the batches that retrieval
has not acknowledged yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from meshkit.errors import MeshError
from meshkit.logging import logger
from services.ingestion.batches import SpaceLimits, batches, count
from services.ingestion.blobs import BlobStore
from services.ingestion.chunking import Chunk, ChunkingPolicy, Tokenize, chunk, digest
from services.ingestion.clamav import Scanner
from services.ingestion.documents import Job, Stage
from services.ingestion.extraction.model import Extracted, FileRefused
from services.ingestion.extraction.runner import Limits, ReaderDied, Usage, extract
from services.ingestion.file_names import title_of
from services.ingestion.measures import became_ready, stage
from services.ingestion.neighbours import Neighbours, Vectors
from services.ingestion.pacing import Paces
from services.ingestion.queue import Queue
from services.ingestion.retry import patiently

log = logger(__name__)

T = TypeVar("T")

_PAID_SECONDS = 4.0
"""How long batches under way may take to their end once the attempt is over: less than a lease,
which nobody extends then."""
_SECOND_CHANCES_SECONDS = (0.2, 2.0, 5.0)
"""Pauses before a file whose reader died is read again. Readers were seen to die in a burst of
seconds by SIGSEGV in gRPC's threads, before they had become readers."""
_SCAN_PATIENCE_SECONDS = 5.0
"""How long a scan is repeated at most; a document that is held shows what it waits for."""
_SPECIAL_TOKENS = 2
"""What a model's tokenizer puts around a text."""


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
    """Batches of one document that are under way at the same time."""
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
    paces: Paces
    """Keeps calls within what the spaces' providers take."""
    policy: AttemptPolicy
    scanner: Scanner | None = None
    """Looks for malware before anything else opens a file."""


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
            Infected: It holds malware.
            LeaseLost: Another worker has it, or it is being removed.
            PlanChanged: It has to become a new version.
            ChunksMissing: It has to be indexed from the start.
            MeshError: Another service failed and patience has ended.
        """
        with stage("extract"):
            document = await self._extract()
        # Its first bytes, which the upload saw, do not tell Office formats apart.
        self._job = replace(self._job, media_type=document.media_type)
        limits = await self._patiently(lambda: self._tools.neighbours.limits(self._job))
        self._at(Stage.CHUNK)
        policy = self._chunking(limits)
        asked = self._job.chunk_tokens or policy.tokens
        if policy.tokens < asked:
            less = f"chunks of {policy.tokens} tokens rather than {asked}: the model reads no more"
            document = replace(document, warnings=(*document.warnings, less))
        with stage("chunk"):
            tokenize = self._tools.tokenizer(limits.name)
            chunks = await asyncio.to_thread(chunk, document, tokenize, policy)
        title = title_of(self._job.given_title, document.title, self._job.file_name)
        await self._keep_plan(document, chunks, limits.name, title)
        self._at(Stage.EMBED, count(self._job.kept), len(chunks))
        with stage("embed", chunks=len(chunks)):
            await self._embed_and_index(chunks, limits)
        self._at(Stage.ACTIVATE, len(chunks), len(chunks))
        with stage("activate"):
            await self._activate(title, len(chunks))
        # Repeated until Postgres has it. If it had it the first time, the lease is over.
        became_ready(await self._patiently(lambda: self._tools.queue.finish(self._job)))

    async def _extract(self) -> Extracted:
        try:
            async with self._tools.blobs.local(self._job.blob_key) as path:
                warning = await self._scan(path)
                document = await self._read_patiently(path)
        except FileNotFoundError:
            raise FileRefused(
                "FILE_MISSING", "The stored file is gone from the blob store; upload it again."
            ) from None
        return replace(document, warnings=(warning, *document.warnings)) if warning else document

    async def _scan(self, path: Path) -> str:
        """What the malware scan has to say of a file that may go on."""
        scanner = self._tools.scanner
        if scanner is None:
            return ""
        self._at(Stage.SCAN)
        patience = min(_SCAN_PATIENCE_SECONDS, self._tools.policy.patience_seconds)
        with stage("scan"):
            return await patiently(lambda: scanner.check(path), patience)

    async def _read_patiently(self, path: Path) -> Extracted:
        self._at(Stage.EXTRACT)
        # A file that kills its reader does so again; whatever else it was does not.
        for number, pause in enumerate(_SECOND_CHANCES_SECONDS):
            try:
                return await self._read(path)
            except ReaderDied as died:
                if number and died.reason == "EXTRACTION_MEMORY":
                    raise
            await asyncio.sleep(pause)
        return await self._read(path)

    async def _read(self, path: Path) -> Extracted:
        return await extract(
            path,
            self._job.file_name,
            self._tools.policy.limits,
            lambda done, total: self._at(Stage.EXTRACT, done, total),
            self._note_usage,
        )

    def _note_usage(self, usage: Usage) -> None:
        log.info(
            "file read",
            document_id=self._job.document_id,
            version=self._job.version,
            seconds=round(usage.seconds, 3),
            peak_mb=round(usage.peak_bytes / 1e6, 1),
        )

    def _chunking(self, limits: SpaceLimits) -> ChunkingPolicy:
        """How large chunks are: as the project chose, and no larger than the model reads."""
        job, policy = self._job, self._tools.policy.chunking
        if job.chunk_tokens is not None:
            overlap = job.chunk_overlap_tokens
            policy = ChunkingPolicy.of(
                job.chunk_tokens, policy.overlap_tokens if overlap is None else overlap
            )
        # What a model does not read of a chunk could not be found by it.
        most = limits.tokens_per_text - _SPECIAL_TOKENS
        if 0 < most < policy.tokens:
            policy = replace(
                policy, tokens=most, overlap_tokens=min(policy.overlap_tokens, most // 2)
            )
        return policy

    async def _keep_plan(
        self, document: Extracted, chunks: Sequence[Chunk], space: str, title: str
    ) -> None:
        job, plan = self._job, digest(chunks)
        if job.kept and job.plan_digest != plan:
            raise PlanChanged
        await self._patiently(
            lambda: self._tools.queue.plan(
                job,
                digest=plan,
                space=space,
                title=title,
                pages=len(document.pages),
                chunks=len(chunks),
                warnings=list(document.warnings),
            )
        )
        self._job = replace(job, plan_digest=plan, space=space)

    async def _embed_and_index(self, chunks: Sequence[Chunk], limits: SpaceLimits) -> None:
        """Takes batches through scan, embedding and index, several side by side.

        Each is kept once retrieval has it, whatever becomes of the others. When one fails, or
        the attempt is to stop, those under way are paid for and come to their end.
        """
        policy = self._tools.policy
        texts = min(policy.batch, limits.texts_per_call or policy.batch)
        tokens = self._tools.paces.largest_call(limits)
        waiting = batches(chunks, self._job.kept, texts=texts, tokens=tokens)
        ending = asyncio.Event()

        async def lane() -> None:
            while not ending.is_set() and (batch := next(waiting, None)) is not None:
                await self._one(batch, limits)

        lanes = [asyncio.create_task(lane()) for _ in range(policy.ahead)]
        try:
            await asyncio.wait(lanes, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            ending.set()
            with suppress(asyncio.CancelledError):
                await asyncio.wait(lanes, timeout=_PAID_SECONDS)
            for task in lanes:
                task.cancel()
            ends = await asyncio.gather(*lanes, return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _one(self, batch: Sequence[Chunk], limits: SpaceLimits) -> None:
        """One batch from its texts to retrieval's acknowledgement."""
        tools, job = self._tools, self._job

        async def embed() -> Vectors:
            async with tools.embedding:
                await tools.paces.wait(limits, batch)
                return await tools.neighbours.embed(job, job.space, batch)

        flags = await self._patiently(lambda: tools.neighbours.scan(job, batch))
        vectors = await self._patiently(embed)
        await self._patiently(lambda: tools.neighbours.index(job, vectors, batch, flags))
        first, end = batch[0].ordinal, batch[-1].ordinal + 1
        await self._patiently(lambda: tools.queue.keep(job, first, end))
        self._at(Stage.EMBED, self._progress.done + len(batch), self._progress.total)

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
