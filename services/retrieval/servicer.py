"""The RPCs of retrieval: messages to dataclasses and back, nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from citemesh.embedding import v1 as embedding_v1
from citemesh.retrieval import v1
from citemesh.usage import v1 as usage_v1
from meshkit.context import ADMIN, INTERNAL, READ, RequestContext, require_scope
from meshkit.database.pool import Database
from meshkit.errors import InvalidInput, PermissionDenied
from meshkit.project import ProjectSettings
from services.retrieval import reading
from services.retrieval.candidates import Viewer
from services.retrieval.filling.describing import IndexedSpace
from services.retrieval.filling.lives import SpaceLives
from services.retrieval.filling.registry import SpaceState
from services.retrieval.fusion import Fusion
from services.retrieval.hits import Hit
from services.retrieval.passages import (
    Chunk,
    ChunkDraft,
    Filter,
    Location,
    Mode,
    Presentation,
    Vectors,
    Version,
)
from services.retrieval.rebuild import Rebuilds
from services.retrieval.reconcile import Findings, Reconciler, tell
from services.retrieval.search import Query, Searcher
from services.retrieval.spaces import dimensions_of
from services.retrieval.upstream import ModelUsage, QueryVector
from services.retrieval.versions import Corpus

DEFAULT_TOP_K = 10
DEFAULT_PAGE_SIZE = 50
MOST_NAMED = 1000

MODES = {
    v1.SEARCH_MODE_UNSPECIFIED: Mode.HYBRID,
    v1.SEARCH_MODE_HYBRID: Mode.HYBRID,
    v1.SEARCH_MODE_DENSE: Mode.DENSE,
    v1.SEARCH_MODE_LEXICAL: Mode.LEXICAL,
}
STATES = {
    SpaceState.BUILDING: embedding_v1.SPACE_STATE_BUILDING,
    SpaceState.ACTIVE: embedding_v1.SPACE_STATE_ACTIVE,
    SpaceState.STANDBY: embedding_v1.SPACE_STATE_STANDBY,
    SpaceState.RETIRED: embedding_v1.SPACE_STATE_RETIRED,
}
FUSIONS = {
    v1.FUSION_METHOD_UNSPECIFIED: None,
    v1.FUSION_METHOD_RRF: Fusion.RRF,
    v1.FUSION_METHOD_MIN_MAX: Fusion.MIN_MAX,
}
_PROJECT_FUSIONS: dict[str | None, Fusion] = {method.value: method for method in Fusion}


class RetrievalServicer(v1.RetrievalServiceServicer):
    """Serves `citemesh.retrieval.v1.RetrievalService`."""

    def __init__(
        self,
        database: Database,
        searcher: Searcher,
        corpus: Corpus,
        rebuilds: Rebuilds,
        reconciler: Reconciler,
        lives: SpaceLives,
    ) -> None:
        self._database = database
        self._searcher = searcher
        self._corpus = corpus
        self._rebuilds = rebuilds
        self._reconciler = reconciler
        self._lives = lives

    async def IndexChunks(self, request: v1.IndexChunksRequest, _: Any) -> v1.IndexChunksResponse:
        """Writes a batch of chunks of a version that is not live."""
        caller = require_scope(INTERNAL)
        stored = await self._corpus.index_chunks(
            caller.project_id,
            _version(request.document),
            request.space,
            [_draft(chunk) for chunk in request.chunks],
            _vectors(request.chunks, request.space),
            space_version=request.space_version,
        )
        return v1.IndexChunksResponse(stored_count=stored)

    async def ActivateVersion(
        self, request: v1.ActivateVersionRequest, _: Any
    ) -> v1.ActivateVersionResponse:
        """Makes a version live."""
        caller = require_scope(INTERNAL)
        show = Presentation(
            title=request.title,
            labels=dict(request.labels),
            allow=list(request.allow),
            media_type=request.media_type,
        )
        epoch = await self._corpus.activate(
            caller.project_id, _version(request.document), show, request.chunk_count
        )
        return v1.ActivateVersionResponse(corpus_epoch=epoch)

    async def RemoveDocument(
        self, request: v1.RemoveDocumentRequest, _: Any
    ) -> v1.RemoveDocumentResponse:
        """Removes a document from every answer."""
        caller = require_scope(INTERNAL)
        removal = await self._corpus.remove(
            caller.project_id, request.document_id, request.lease_epoch, request.request_id
        )
        return v1.RemoveDocumentResponse(corpus_epoch=removal.corpus_epoch, removed=removal.removed)

    async def Search(self, request: v1.SearchRequest, _: Any) -> v1.SearchResponse:
        """Finds passages."""
        caller = require_scope(READ)
        found = await self._searcher.search(_viewer(caller), _query(request, caller.settings))
        return v1.SearchResponse(
            hits=[_hit(hit) for hit in found.hits],
            degraded=found.degraded,
            timings_ms=found.timings_ms,
            started_ms=found.started_ms,
            corpus_epoch=found.corpus_epoch,
            space=found.space,
            usage=[_usage(usage) for usage in found.usage],
            neighbours=(
                v1.Neighbours(chunks=[_stored(chunk) for chunk in found.neighbours])
                if found.neighbours is not None
                else None
            ),
        )

    async def GetCorpusState(
        self, _request: v1.GetCorpusStateRequest, _: Any
    ) -> v1.GetCorpusStateResponse:
        """Says which state of the corpus a search would see."""
        caller = require_scope(READ)
        epoch = await reading.corpus_epoch(self._database, caller.project_id)
        return v1.GetCorpusStateResponse(corpus_epoch=epoch)

    async def ReadChunks(self, request: v1.ReadChunksRequest, _: Any) -> v1.ReadChunksResponse:
        """Reads chunks by id, of a document, or of the whole project."""
        size = request.page_size or DEFAULT_PAGE_SIZE
        if request.whole_project:
            caller = require_scope(ADMIN, INTERNAL)
            page = await reading.of_project(
                self._database, caller.project_id, size, request.page_token
            )
        elif request.chunk_ids:
            viewer = _viewer(require_scope(READ))
            page = await reading.by_id(self._database, viewer, request.chunk_ids)
        else:
            viewer = _viewer(require_scope(READ))
            page = await reading.of_document(
                self._database, viewer, request.document_id, size, request.page_token
            )
        return v1.ReadChunksResponse(
            chunks=[_stored(chunk) for chunk in page.chunks],
            next_page_token=page.next_page_token,
        )

    async def RebuildLexicalIndex(
        self, request: v1.RebuildLexicalIndexRequest, _: Any
    ) -> AsyncIterator[v1.RebuildLexicalIndexResponse]:
        """Builds the lexical index anew and switches to it."""
        require_scope(ADMIN, INTERNAL)
        async for progress in self._rebuilds.run(request.request_id):
            yield v1.RebuildLexicalIndexResponse(
                done_count=progress.done,
                total_count=progress.total,
                switched=progress.switched,
            )

    async def ReconcileLexicalIndex(
        self, request: v1.ReconcileLexicalIndexRequest, _: Any
    ) -> v1.ReconcileLexicalIndexResponse:
        """Compares the lexical index with Postgres and mends it."""
        require_scope(ADMIN, INTERNAL)
        findings = await self._reconciler.reconcile(
            project_id=request.project_id, repair=not request.dry_run
        )
        tell(findings)
        return _findings(findings)

    async def ListIndexedSpaces(
        self, request: v1.ListIndexedSpacesRequest, _: Any
    ) -> v1.ListIndexedSpacesResponse:
        """Every space with what is filled of it."""
        require_scope(ADMIN, INTERNAL)
        found = await self._lives.describe(request.space, estimate=request.estimate)
        return v1.ListIndexedSpacesResponse(spaces=[_space(space) for space in found])

    async def BuildSpace(self, request: v1.BuildSpaceRequest, _: Any) -> v1.BuildSpaceResponse:
        """Begins or resumes filling a space."""
        require_scope(ADMIN, INTERNAL)
        return v1.BuildSpaceResponse(space=_space(await self._lives.build(request.space)))

    async def PauseSpace(self, request: v1.PauseSpaceRequest, _: Any) -> v1.PauseSpaceResponse:
        """Stops filling a space."""
        require_scope(ADMIN, INTERNAL)
        return v1.PauseSpaceResponse(space=_space(await self._lives.pause(request.space)))

    async def SwitchSpace(self, request: v1.SwitchSpaceRequest, _: Any) -> v1.SwitchSpaceResponse:
        """Makes a filled space the active one."""
        require_scope(ADMIN, INTERNAL)
        active, previous, count = await self._lives.switch(request.space, request.request_id)
        return v1.SwitchSpaceResponse(active=active, previous=previous, chunk_count=count)

    async def DropSpace(self, request: v1.DropSpaceRequest, _: Any) -> v1.DropSpaceResponse:
        """Retires a space and drops its vectors."""
        require_scope(ADMIN, INTERNAL)
        return v1.DropSpaceResponse(bytes=await self._lives.drop(request.space))

    async def PurgeProject(
        self, request: v1.PurgeProjectRequest, _: Any
    ) -> v1.PurgeProjectResponse:
        """Removes everything of the caller's project."""
        caller = require_scope(ADMIN, INTERNAL)
        if request.project_id != caller.project_id:
            raise PermissionDenied(
                "PROJECT_MISMATCH", "A purge needs a context of the project it removes."
            )
        receipt = await self._corpus.purge(caller.project_id)
        return v1.PurgeProjectResponse(
            chunks_removed=receipt.chunks, documents_removed=receipt.documents
        )


def _findings(found: Findings) -> v1.ReconcileLexicalIndexResponse:
    return v1.ReconcileLexicalIndexResponse(
        version_count=found.versions,
        difference_count=len(found.differences),
        repaired_count=found.repaired,
        differences=[
            v1.IndexDifference(
                project_id=each.key.project_id,
                document_id=each.key.document_id,
                version=each.key.version,
                expected_count=each.expected,
                indexed_count=each.indexed,
            )
            for each in found.differences[:MOST_NAMED]
        ],
        incomplete=[
            v1.IncompleteDocument(project_id=project, document_id=document)
            for project, document in found.incomplete[:MOST_NAMED]
        ],
    )


def _space(found: IndexedSpace) -> v1.IndexedSpace:
    message = v1.IndexedSpace(
        name=found.name,
        state=STATES[found.state],
        followed=found.followed,
        paused=found.paused,
        chunk_count=found.live,
        pending_count=found.pending,
        stuck_count=found.stuck,
        trouble=found.trouble,
        bytes=found.bytes,
    )
    if (estimate := found.estimate) is not None:
        message.estimated_tokens = estimate.tokens
        message.estimated_cost_micro_usd = estimate.micro_usd
        message.estimated_bytes = estimate.bytes
        message.estimated_truncated_count = estimate.truncated
    return message


def _viewer(caller: RequestContext) -> Viewer:
    return Viewer(caller.project_id, caller.principals)


def _version(message: v1.DocumentVersion) -> Version:
    return Version(message.document_id, message.version, message.lease_epoch)


def _draft(message: v1.Chunk) -> ChunkDraft:
    at = message.location
    return ChunkDraft(
        ordinal=message.ordinal,
        text=message.text,
        location=Location(at.page, at.page_end, list(at.headings), at.start, at.end, at.section),
        token_count=message.token_count,
        language=message.language,
        flags=list(message.flags),
    )


def _vectors(chunks: Sequence[v1.Chunk], space: str) -> Vectors:
    """The chunks' vectors as one matrix; all must have the space's length."""
    dimensions = dimensions_of(space)
    lengths = {len(chunk.vector) for chunk in chunks}
    if lengths == {dimensions}:
        return np.array([chunk.vector for chunk in chunks], dtype=np.float32)
    # One of the wrong length, for the error that names both.
    wrong = next(iter(lengths - {dimensions}))
    if wrong == 0:
        raise InvalidInput("VECTOR_INVALID", "A chunk has no vector.")
    return np.ones((1, wrong), dtype=np.float32)


def _query(request: v1.SearchRequest, project: ProjectSettings) -> Query:
    """The search as it is asked for; what it leaves open is the project's choice."""
    restrict = request.filter
    vector = None
    if request.vector:
        vector = QueryVector(
            np.array(request.vector, dtype=np.float32),
            request.space,
            version=request.space_version,
        )
    return Query(
        text=request.query,
        top_k=request.top_k or DEFAULT_TOP_K,
        mode=MODES[request.mode],
        fusion=FUSIONS[request.fusion] or _PROJECT_FUSIONS.get(project.fusion),
        dense_weight=project.dense_weight,
        lexical_weight=project.lexical_weight,
        rerank=request.rerank != v1.RERANK_MODE_OFF,
        restrict=Filter(
            labels=dict(restrict.labels),
            document_ids=list(restrict.document_ids),
            activated_after=_time(restrict.activated_after)
            if restrict.HasField("activated_after")
            else None,
            activated_before=_time(restrict.activated_before)
            if restrict.HasField("activated_before")
            else None,
        ),
        vector=vector,
        neighbours=request.neighbours,
        neighbour_chunks=request.neighbour_chunks,
        context_tokens=request.context_tokens,
        bypass_cache=request.bypass_cache,
    )


def _time(message: Timestamp) -> datetime:
    return message.ToDatetime(tzinfo=UTC)


def _stored(chunk: Chunk) -> v1.StoredChunk:
    at = chunk.location
    return v1.StoredChunk(
        chunk_id=chunk.chunk_id,
        document_id=chunk.document_id,
        version=chunk.version,
        ordinal=chunk.ordinal,
        title=chunk.title,
        text=chunk.text,
        location=v1.Location(
            page=at.page,
            page_end=at.page_end,
            headings=at.headings,
            start=at.start,
            end=at.end,
            section=at.section,
        ),
        token_count=chunk.token_count,
        flags=chunk.flags,
    )


def _hit(hit: Hit) -> v1.Hit:
    signals = hit.signals
    return v1.Hit(
        chunk=_stored(hit.chunk),
        score=hit.score,
        signals=v1.Signals(
            dense_rank=signals.dense_rank,
            dense_similarity=signals.dense_similarity,
            lexical_rank=signals.lexical_rank,
            lexical_score=signals.lexical_score,
            fused_rank=signals.fused_rank,
            rerank_score=signals.rerank_score,
        ),
        context=hit.context,
    )


def _usage(usage: ModelUsage) -> usage_v1.Usage:
    return usage_v1.Usage(
        stage=usage.stage,
        provider=usage.provider,
        model=usage.model,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost_micro_usd=usage.cost_micro_usd,
        estimated=usage.estimated,
    )
