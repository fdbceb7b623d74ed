"""Ingestion as the process it is, between neighbours that can be held, stopped and asked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from citemesh.embedding import v1 as embedding_v1
from citemesh.guardrail import v1 as guardrail_v1
from citemesh.ingestion import v1
from citemesh.retrieval import v1 as retrieval_v1
from meshkit import context
from meshkit.components import BY_NAME
from meshkit.context import RequestContext, acting_as
from meshkit.errors import Fenced, MeshError, NotFound, Precondition, Unavailable
from meshkit.identity import Signer, Verifier
from meshkit.ids import new_id
from meshkit.project import DEFAULTS, ProjectSettings
from meshkit.server import Server
from meshkit.settings import ServiceSettings
from tests.contract.service_process import Keys, ServiceProcess, running

SPACE = "local/bge-small-en-v1.5@384"
DOWN = Unavailable("SERVICE_UNAVAILABLE", "down")


class Settings(ServiceSettings, service="embedding"):
    """Settings of the server of the neighbours."""


@dataclass
class Embedding(embedding_v1.EmbeddingServiceServicer):
    """Embeds everything to the same direction; holds calls while `gate` is closed."""

    error: MeshError | None = None
    fails_at: str = ""
    """Only calls with a text that holds this get `error`; all of them when it is empty."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    texts: Counter[str] = field(default_factory=Counter)
    sizes: list[int] = field(default_factory=list)
    """Texts of each call."""
    limits: embedding_v1.SpaceLimits = field(default_factory=embedding_v1.SpaceLimits)
    purged: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.gate.set()

    async def ListSpaces(self, request: Any, _: Any) -> embedding_v1.ListSpacesResponse:
        active = embedding_v1.SPACE_STATE_ACTIVE
        space = embedding_v1.Space(name=SPACE, state=active, limits=self.limits)
        return embedding_v1.ListSpacesResponse(spaces=[space])

    async def Embed(self, request: Any, _: Any) -> embedding_v1.EmbedResponse:
        await self.gate.wait()
        if self.error is not None and any(self.fails_at in text for text in request.texts):
            raise self.error
        self.texts.update(request.texts)
        self.sizes.append(len(request.texts))
        vectors = [embedding_v1.Vector(values=[1.0, 0.0]) for _ in request.texts]
        return embedding_v1.EmbedResponse(vectors=vectors, space=request.space)

    async def PurgeProject(self, request: Any, _: Any) -> embedding_v1.PurgeProjectResponse:
        self.purged.add(request.project_id)
        return embedding_v1.PurgeProjectResponse(vectors_removed=1)


class Guardrail(guardrail_v1.GuardrailServiceServicer):
    """Finds an injection in every text that holds the word `ignore`."""

    async def ScanChunks(self, request: Any, _: Any) -> guardrail_v1.ScanChunksResponse:
        scans = []
        for text in request.texts:
            finding = guardrail_v1.Finding(rule="ignore_instructions")
            scans.append(
                guardrail_v1.ChunkScan(findings=[finding], verdict=guardrail_v1.VERDICT_BLOCK)
                if "ignore" in text
                else guardrail_v1.ChunkScan(verdict=guardrail_v1.VERDICT_ALLOW)
            )
        return guardrail_v1.ScanChunksResponse(scans=scans)


@dataclass
class Retrieval(retrieval_v1.RetrievalServiceServicer):
    """Keeps chunks and fences in memory, by the rules of the contract.

    Holds writes while `gate` is closed; answers `error` when there is one.
    """

    error: MeshError | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    chunks: dict[tuple[str, int], dict[int, Any]] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    live: dict[str, int] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    projects: dict[str, str] = field(default_factory=dict)
    activations: list[Any] = field(default_factory=list)
    fenced: int = 0
    written: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def _admit(self, document: Any) -> None:
        if self.error is not None:
            raise self.error
        if document.document_id in self.removed:
            raise Precondition("DOCUMENT_REMOVED", "The document was removed.")
        if document.lease_epoch < self.epochs.get(document.document_id, 0):
            self.fenced += 1
            raise Fenced("FENCED", "A newer lease has written.")
        self.epochs[document.document_id] = document.lease_epoch
        self.projects[document.document_id] = context.require_scope("internal").project_id

    async def IndexChunks(self, request: Any, _: Any) -> retrieval_v1.IndexChunksResponse:
        await self.gate.wait()
        self._admit(request.document)
        self.written += len(request.chunks)
        key = request.document.document_id, request.document.version
        stored = self.chunks.setdefault(key, {})
        stored.update({chunk.ordinal: chunk for chunk in request.chunks})
        return retrieval_v1.IndexChunksResponse(stored_count=len(stored))

    async def ActivateVersion(self, request: Any, _: Any) -> retrieval_v1.ActivateVersionResponse:
        await self.gate.wait()
        self._admit(request.document)
        name, version = request.document.document_id, request.document.version
        if len(self.chunks.get((name, version), {})) < request.chunk_count:
            raise Precondition("CHUNKS_MISSING", "Fewer chunks are stored than announced.")
        self.live[name] = version
        self.activations.append(request)
        return retrieval_v1.ActivateVersionResponse(corpus_epoch=1)

    async def RemoveDocument(self, request: Any, _: Any) -> retrieval_v1.RemoveDocumentResponse:
        context.require_scope("internal")
        if self.error is not None:
            raise self.error
        self.epochs[request.document_id] = request.lease_epoch
        self.removed.add(request.document_id)
        found = self.live.pop(request.document_id, None)
        return retrieval_v1.RemoveDocumentResponse(removed=found is not None)

    async def ReadChunks(self, request: Any, _: Any) -> retrieval_v1.ReadChunksResponse:
        project = context.require_scope("admin", "internal").project_id
        chunks = [
            retrieval_v1.StoredChunk(
                chunk_id=f"{name}.{version}.{ordinal}", document_id=name, text=chunk.text
            )
            for name, version in sorted(self.live.items())
            if self.projects[name] == project
            for ordinal, chunk in sorted(self.chunks[name, version].items())
        ]
        return retrieval_v1.ReadChunksResponse(chunks=chunks)

    async def PurgeProject(self, request: Any, _: Any) -> retrieval_v1.PurgeProjectResponse:
        context.require_scope("admin", "internal")
        if self.error is not None:
            raise self.error
        names = [name for name, project in self.projects.items() if project == request.project_id]
        count = sum(len(found) for (name, _), found in self.chunks.items() if name in names)
        for name in names:
            self.live.pop(name, None)
        return retrieval_v1.PurgeProjectResponse(chunks_removed=count, documents_removed=len(names))

    def texts(self, document_id: str, version: int = 1) -> list[str]:
        """Texts of a version's chunks in order; fails when an ordinal is missing."""
        found = self.chunks[document_id, version]
        assert sorted(found) == list(range(len(found)))
        return [found[ordinal].text for ordinal in sorted(found)]


@dataclass
class Room:
    """The neighbours, and how to start ingestion among them."""

    postgres: Any
    keys: Keys
    directory: Path
    address: str
    embedding: Embedding
    retrieval: Retrieval

    @property
    def blobs(self) -> Path:
        """Where ingestion keeps source files."""
        return self.directory / "blobs"

    def blob_files(self) -> list[Path]:
        """Every file in the blob store, finished or not."""
        return [path for path in self.blobs.rglob("*") if path.is_file()]

    async def version(self, document_id: str) -> asyncpg.Record:
        """The row of the document's latest version."""
        connection = await asyncpg.connect(self.postgres.owner_dsn)
        try:
            found = await connection.fetchrow(
                "SELECT * FROM ingestion.document_version WHERE document_id = $1"
                " ORDER BY version DESC LIMIT 1",
                document_id,
            )
        finally:
            await connection.close()
        assert found is not None
        return found

    async def at_stage(self, document_id: str, stage: str) -> bool:
        """Whether a worker is at this stage of the document."""
        return bool((await self.version(document_id))["stage"] == stage)

    async def some_indexed(self, document_id: str) -> bool:
        """Whether a batch of the document, of four chunks, is kept."""
        return bool((await self.version(document_id))["indexed"] >= 4)

    @asynccontextmanager
    async def slow_writes(self) -> AsyncIterator[None]:
        """Retrieval takes its time for a write, so that a test can step in between."""
        original = self.retrieval.IndexChunks

        async def slow(request: Any, context: Any) -> Any:
            await asyncio.sleep(0.05)
            return await original(request, context)

        self.retrieval.IndexChunks = slow  # type: ignore[method-assign]
        yield
        del self.retrieval.IndexChunks

    @asynccontextmanager
    async def ingestion(self, **environment: str) -> AsyncIterator[Ingestion]:
        """Ingestion as a process."""
        addresses = {
            f"CITEMESH_{name.upper()}_ADDRESS": self.address
            for name in ("embedding_bulk", "guardrail", "retrieval")
        }
        own = {
            "CITEMESH_INGESTION_SIGNING_KEY": str(self.directory / "ingestion.key"),
            "CITEMESH_BLOB_URL": self.blobs.as_uri(),
            "CITEMESH_INGESTION_LEASE_SECONDS": "2",
            "CITEMESH_INGESTION_POLL_SECONDS": "0.3",
            "CITEMESH_INGESTION_SWEEP_SECONDS": "0.3",
            "CITEMESH_INGESTION_EMBED_BATCH": "4",
            "CITEMESH_INGESTION_CHUNK_TOKENS": "40",
            "CITEMESH_INGESTION_CHUNK_OVERLAP_TOKENS": "0",
            **environment,
        }
        async with running(
            "ingestion", self.postgres, self.keys, **{**addresses, **own}
        ) as process:
            stub = v1.IngestionServiceAsyncStub(process.channel)
            yield Ingestion(process, stub, Signer.load(self.directory / "gateway.key"))


@dataclass
class Ingestion:
    """A running ingestion service and a caller of it."""

    process: ServiceProcess
    stub: Any
    signer: Signer
    project_id: str = field(default_factory=lambda: new_id("prj"))

    def caller(
        self,
        *principals: str,
        scopes: Sequence[str] = ("read", "write"),
        project_id: str = "",
        subject: str = "key:ann",
        settings: ProjectSettings = DEFAULTS,
    ) -> RequestContext:
        """A context as the gateway signs it."""
        return self.signer.sign(
            project_id=project_id or self.project_id,
            principals=principals or ("user:ann",),
            scopes=scopes,
            subject=subject,
            request_id=new_id("req"),
            settings=settings,
        )

    async def upload(
        self,
        data: bytes,
        name: str = "file.txt",
        *,
        caller: RequestContext | None = None,
        request_id: str = "",
        piece: int = 1 << 20,
        document_id: str = "",
        sha256: str = "",
        size_bytes: int = 0,
        **metadata: Any,
    ) -> v1.UploadDocumentResponse:
        """Uploads a file."""
        start = v1.UploadStart(
            metadata=v1.DocumentMetadata(file_name=name, **metadata),
            document_id=document_id,
            request_id=request_id or new_id("req"),
            sha256=sha256,
            size_bytes=size_bytes,
        )

        async def parts() -> AsyncIterator[v1.UploadDocumentRequest]:
            yield v1.UploadDocumentRequest(start=start)
            for at in range(0, len(data), piece):
                yield v1.UploadDocumentRequest(data=data[at : at + piece])
            yield v1.UploadDocumentRequest(end=v1.UploadEnd())

        with acting_as(caller or self.caller()):
            return await self.stub.UploadDocument(parts(), timeout=60)

    async def get(self, document_id: str, caller: RequestContext | None = None) -> v1.Document:
        """The document as it is now."""
        with acting_as(caller or self.caller()):
            response = await self.stub.GetDocument(
                v1.GetDocumentRequest(document_id=document_id), timeout=10
            )
        return response.document

    async def watched(
        self, document_id: str, caller: RequestContext | None = None
    ) -> list[v1.Document]:
        """Every state the document shows until it is settled."""
        with acting_as(caller or self.caller()):
            stream = self.stub.WatchDocument(
                v1.WatchDocumentRequest(document_id=document_id), timeout=60
            )
            return [response.document async for response in stream]

    async def settled(self, document_id: str, caller: RequestContext | None = None) -> v1.Document:
        """The document once it is ready or failed."""
        return (await self.watched(document_id, caller))[-1]

    async def at(self, document_id: str, state: int) -> v1.Document | None:
        """The document, if it is being worked on and in this state."""
        document = await self.get(document_id)
        return document if document.state == state and document.stage != "" else None

    async def said(self, event: str, document_id: str) -> bool:
        """Whether the process has logged something of a document."""
        return any(event in line and document_id in line for line in self.process.lines)

    async def gone(self, document_id: str) -> bool:
        """Whether the document is not there any more."""
        try:
            await self.get(document_id)
        except NotFound:
            return True
        return False

    async def reprocess(
        self, document_id: str, caller: RequestContext | None = None
    ) -> v1.Document:
        """Has a document processed anew."""
        request = v1.ReprocessDocumentRequest(document_id=document_id, request_id=new_id("req"))
        with acting_as(caller or self.caller()):
            return (await self.stub.ReprocessDocument(request, timeout=10)).document

    async def delete(
        self, document_id: str, *, request_id: str = "", caller: RequestContext | None = None
    ) -> None:
        """Deletes a document."""
        request = v1.DeleteDocumentRequest(
            document_id=document_id, request_id=request_id or new_id("req")
        )
        with acting_as(caller or self.caller()):
            await self.stub.DeleteDocument(request, timeout=30)


@asynccontextmanager
async def open_room(postgres: Any, directory: Path) -> AsyncIterator[Room]:
    """Neighbours on a port of their own."""
    keys = Keys(directory)
    names = [BY_NAME[name].grpc_service for name in ("embedding", "guardrail", "retrieval")]
    server = Server(Settings(), Verifier.load(keys.keyring))
    embedding, retrieval = Embedding(), Retrieval()
    await server.start(names)
    server.add(embedding_v1.add_EmbeddingServiceServicer_to_server, embedding)
    server.add(guardrail_v1.add_GuardrailServiceServicer_to_server, Guardrail())
    server.add(retrieval_v1.add_RetrievalServiceServicer_to_server, retrieval)
    await server.set_serving(True)
    yield Room(postgres, keys, directory, f"127.0.0.1:{server.port}", embedding, retrieval)
    embedding.gate.set()
    retrieval.gate.set()
    await server.drain()


def text_of(sentences: int, topic: str = "") -> bytes:
    """A text of its own, of as many sentences, about twelve tokens each."""
    topic = topic or new_id("topic")
    return " ".join(
        f"Sentence {n} of {topic} says a little more." for n in range(sentences)
    ).encode()
