"""The services ingestion calls, as plain calls: protobuf stops here.

Every call acts under this service's own identity, bound to the project and the
principals of the work, and signed anew because work may outlive a signature.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from citemesh.embedding import v1 as embedding_v1
from citemesh.guardrail import v1 as guardrail_v1
from citemesh.retrieval import v1 as retrieval_v1
from meshkit.context import RequestContext, acting_as, peek
from meshkit.errors import Internal, Precondition
from meshkit.identity import Signer
from meshkit.ids import new_request_id
from services.ingestion.batches import SpaceLimits
from services.ingestion.chunking import Chunk
from services.ingestion.documents import Job

EMBED_SECONDS = 120.0
SCAN_SECONDS = 30.0
INDEX_SECONDS = 30.0
ACTIVATE_SECONDS = 60.0
REMOVE_SECONDS = 20.0
PURGE_SECONDS = 120.0
_EXPORT_PAGE = 256


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors of a batch, in its order, and the space they belong to."""

    space: str
    values: Sequence[Sequence[float]]
    space_version: str = ""
    """Fingerprint of the space."""


@dataclass(frozen=True, slots=True)
class ExportedChunk:
    """A live chunk as retrieval holds it."""

    chunk_id: str
    document_id: str
    version: int
    ordinal: int
    text: str
    page: int
    headings: tuple[str, ...]


class Neighbours:
    """Typed calls; each raises `MeshError`.

    Args:
        embedding: Stub of the bulk lane.
        guardrail: Stub.
        retrieval: Stub.
        signer: This service's identity.
    """

    def __init__(
        self,
        embedding: embedding_v1.EmbeddingServiceAsyncStub,
        guardrail: guardrail_v1.GuardrailServiceAsyncStub,
        retrieval: retrieval_v1.RetrievalServiceAsyncStub,
        signer: Signer,
    ) -> None:
        self._embedding = embedding
        self._guardrail = guardrail
        self._retrieval = retrieval
        self._signer = signer

    async def limits(self, job: Job) -> SpaceLimits:
        """The space of a job, which is the active one for a new job, and what it takes.

        Raises:
            Precondition: SPACE_RETIRED: the space of the job is not there any more.
        """
        with self._as(job):
            response = await self._embedding.ListSpaces(
                embedding_v1.ListSpacesRequest(), timeout=SCAN_SECONDS
            )
        for space in response.spaces:
            if space.state == embedding_v1.SPACE_STATE_RETIRED:
                continue
            active = space.state == embedding_v1.SPACE_STATE_ACTIVE
            if space.name == job.space or (active and not job.space):
                limits = space.limits
                return SpaceLimits(
                    space.name,
                    limits.max_texts_per_call,
                    limits.max_tokens_per_text,
                    limits.tokens_per_minute,
                )
        raise Precondition(
            "SPACE_RETIRED",
            f"The embedding space {job.space} of this work is gone; reprocess the document.",
        )

    async def embed(self, job: Job, space: str, chunks: Sequence[Chunk]) -> Vectors:
        """Vectors of the chunks' texts, one for each.

        Raises:
            Internal: VECTOR_INVALID: another number of vectors came back.
        """
        request = embedding_v1.EmbedRequest(
            texts=[chunk.text for chunk in chunks],
            task=embedding_v1.EMBED_TASK_DOCUMENT,
            space=space,
        )
        with self._as(job):
            response = await self._embedding.Embed(request, timeout=EMBED_SECONDS)
        if len(response.vectors) != len(chunks):
            raise Internal(
                "VECTOR_INVALID",
                f"{len(response.vectors)} vectors came back for {len(chunks)} texts.",
            )
        values = [vector.values for vector in response.vectors]
        return Vectors(response.space, values, response.space_version)

    async def scan(self, job: Job, chunks: Sequence[Chunk]) -> list[list[str]]:
        """Names of the injection rules each chunk offends; empty for a clean one."""
        request = guardrail_v1.ScanChunksRequest(texts=[chunk.text for chunk in chunks])
        with self._as(job):
            response = await self._guardrail.ScanChunks(request, timeout=SCAN_SECONDS)
        return [
            sorted({finding.rule for finding in scan.findings})
            if scan.verdict == guardrail_v1.VERDICT_BLOCK
            else []
            for scan in response.scans
        ]

    async def index(
        self, job: Job, vectors: Vectors, chunks: Sequence[Chunk], flags: Sequence[list[str]]
    ) -> None:
        """Writes a batch of chunks of a version that is not live."""
        request = retrieval_v1.IndexChunksRequest(
            document=_version(job),
            space=vectors.space,
            space_version=vectors.space_version,
            chunks=[
                _chunk(chunk, values, found)
                for chunk, values, found in zip(chunks, vectors.values, flags, strict=True)
            ],
        )
        with self._as(job):
            await self._retrieval.IndexChunks(request, timeout=INDEX_SECONDS)

    async def activate(self, job: Job, title: str, chunk_count: int) -> None:
        """Makes the version live."""
        request = retrieval_v1.ActivateVersionRequest(
            document=_version(job),
            chunk_count=chunk_count,
            title=title,
            labels=job.labels,
            allow=job.allow,
            media_type=job.media_type,
        )
        with self._as(job):
            await self._retrieval.ActivateVersion(request, timeout=ACTIVATE_SECONDS)

    async def remove(self, project_id: str, document_id: str, lease_epoch: int) -> None:
        """Removes a document from every answer."""
        request = retrieval_v1.RemoveDocumentRequest(
            document_id=document_id,
            lease_epoch=lease_epoch,
            # One removal of a document is as good as another.
            request_id=f"remove-{document_id}",
        )
        with self._as_service(project_id):
            await self._retrieval.RemoveDocument(request, timeout=REMOVE_SECONDS)

    async def purge(self, project_id: str) -> int:
        """Removes everything of a project in retrieval and embedding; chunks removed."""
        with self._as_service(project_id):
            removed = await self._retrieval.PurgeProject(
                retrieval_v1.PurgeProjectRequest(project_id=project_id), timeout=PURGE_SECONDS
            )
            await self._embedding.PurgeProject(
                embedding_v1.PurgeProjectRequest(project_id=project_id), timeout=PURGE_SECONDS
            )
        return int(removed.chunks_removed)

    async def live_chunks(self, project_id: str) -> AsyncIterator[list[ExportedChunk]]:
        """Every live chunk of a project, in pages, in the order of ids."""
        token = ""
        while True:
            request = retrieval_v1.ReadChunksRequest(
                whole_project=True, page_size=_EXPORT_PAGE, page_token=token
            )
            with self._as_service(project_id):
                response = await self._retrieval.ReadChunks(request, timeout=INDEX_SECONDS)
            yield [
                ExportedChunk(
                    chunk_id=chunk.chunk_id,
                    document_id=chunk.document_id,
                    version=chunk.version,
                    ordinal=chunk.ordinal,
                    text=chunk.text,
                    page=chunk.location.page,
                    headings=tuple(chunk.location.headings),
                )
                for chunk in response.chunks
            ]
            token = response.next_page_token
            if not token:
                return

    def _as(self, job: Job) -> AbstractContextManager[RequestContext]:
        return acting_as(
            self._signer.sign_background(job.project_id, job.principals, job.request_id)
        )

    def _as_service(self, project_id: str) -> AbstractContextManager[RequestContext]:
        request = peek()
        request_id = request.request_id if request else new_request_id()
        return acting_as(self._signer.sign_background(project_id, (), request_id))


def _version(job: Job) -> retrieval_v1.DocumentVersion:
    return retrieval_v1.DocumentVersion(
        document_id=job.document_id, version=job.version, lease_epoch=job.lease_epoch
    )


def _chunk(chunk: Chunk, vector: Sequence[float], flags: list[str]) -> retrieval_v1.Chunk:
    return retrieval_v1.Chunk(
        ordinal=chunk.ordinal,
        text=chunk.text,
        location=retrieval_v1.Location(
            page=chunk.page,
            page_end=chunk.page_end,
            headings=chunk.headings,
            start=chunk.start,
            end=chunk.end,
            section=chunk.section,
        ),
        vector=vector,
        token_count=chunk.token_count,
        flags=flags,
    )
