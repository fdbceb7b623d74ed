"""A real gateway on a real port with a real database; the services behind it are stood in for."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from citemesh.generation import v1 as generation_v1
from citemesh.ingestion import v1 as ingestion_v1
from citemesh.operations import v1 as operations_v1
from citemesh.retrieval import v1 as retrieval_v1
from gateway.__main__ import listen
from gateway.__main__ import server as http_server
from gateway.admission import admission
from gateway.api_keys import ApiKeys
from gateway.auth import Authenticator
from gateway.contexts import Contexts
from gateway.json_web_tokens import TokenVerifier
from gateway.limits import Limits
from gateway.mesh import Mesh, Slot
from gateway.operations import Operations
from gateway.projects import Projects
from gateway.readiness import Readiness
from gateway.settings import GatewaySettings
from meshkit import context
from meshkit.channel import MeshChannel
from meshkit.components import ISSUERS
from meshkit.context import RequestContext
from meshkit.database.pool import Database
from meshkit.identity import Signer, Verifier, create_keyring
from meshkit.providers.breakers import Breakers
from meshkit.providers.errors import Target
from meshkit.providers.servicer import OperationsServicer
from meshkit.resilience.breaker import Policy
from meshkit.server import Server

INGESTION = "citemesh.ingestion.v1.IngestionService"
RETRIEVAL = "citemesh.retrieval.v1.RetrievalService"
GENERATION = "citemesh.generation.v1.GenerationService"
PROVIDER = Target("gemini", "gemini-3.8-flash", "generate")


@dataclass
class Uploaded:
    """What ingestion was sent."""

    start: ingestion_v1.UploadStart | None = None
    size: int = 0
    content: bytes = b""
    largest: int = 0
    ended: bool = False
    closed: asyncio.Event = field(default_factory=asyncio.Event)


Reply = Callable[[Any], Awaitable[Any]]
Stream = Callable[[Any], AsyncIterator[Any]]


class Services(
    ingestion_v1.IngestionServiceServicer,
    retrieval_v1.RetrievalServiceServicer,
    generation_v1.GenerationServiceServicer,
):
    """The services: each RPC answers what the test tells it to, and notes who asked."""

    def __init__(self) -> None:
        self.breakers = Breakers(Policy())
        self.contexts: list[RequestContext] = []
        self.requests: list[Any] = []
        self.replies: dict[str, Reply] = {}
        self.streams: dict[str, Stream] = {}
        self.uploads: list[Uploaded] = []
        self.keep_content = True
        self.upload_under_way = asyncio.Event()

    def clear(self) -> None:
        """Forgets what was told and what was asked."""
        breakers = self.breakers
        self.__init__()  # type: ignore[misc]
        # The servicer of operations has these.
        breakers.reset()
        self.breakers = breakers

    async def _reply(self, name: str, request: Any, otherwise: Any) -> Any:
        self.contexts.append(context.current())
        self.requests.append(request)
        return await self.replies[name](request) if name in self.replies else otherwise

    async def UploadDocument(self, messages: Any, _: Any) -> Any:
        self.contexts.append(context.current())
        found = Uploaded()
        self.uploads.append(found)
        try:
            async for message in messages:
                part = message.WhichOneof("part")
                if part == "start":
                    found.start = message.start
                    if "UploadDocument" in self.replies:
                        await self.replies["UploadDocument"](message.start)
                elif part == "end":
                    found.ended = True
                else:
                    found.size += len(message.data)
                    self.upload_under_way.set()
                    found.largest = max(found.largest, len(message.data))
                    if self.keep_content:
                        found.content += message.data
        finally:
            found.closed.set()
        document = ingestion_v1.Document(
            id=found.start.document_id or "doc_1",
            version=1,
            state=ingestion_v1.DOCUMENT_STATE_QUEUED,
            title=found.start.metadata.title,
            size_bytes=found.size,
        )
        return ingestion_v1.UploadDocumentResponse(document=document)

    async def GetDocument(self, request: Any, _: Any) -> Any:
        return await self._reply("GetDocument", request, ingestion_v1.GetDocumentResponse())

    async def ListDocuments(self, request: Any, _: Any) -> Any:
        return await self._reply("ListDocuments", request, ingestion_v1.ListDocumentsResponse())

    async def DeleteDocument(self, request: Any, _: Any) -> Any:
        return await self._reply("DeleteDocument", request, ingestion_v1.DeleteDocumentResponse())

    async def ReprocessDocument(self, request: Any, _: Any) -> Any:
        return await self._reply(
            "ReprocessDocument", request, ingestion_v1.ReprocessDocumentResponse()
        )

    async def WatchDocument(self, request: Any, _: Any) -> AsyncIterator[Any]:
        self.contexts.append(context.current())
        async for message in self.streams["WatchDocument"](request):
            yield message

    async def ExportProject(self, request: Any, _: Any) -> AsyncIterator[Any]:
        self.contexts.append(context.current())
        async for message in self.streams["ExportProject"](request):
            yield message

    async def PurgeProject(self, request: Any, _: Any) -> Any:
        name = type(request).DESCRIPTOR.file.package
        module = ingestion_v1 if "ingestion" in name else generation_v1
        return await self._reply(f"PurgeProject {name}", request, module.PurgeProjectResponse())

    async def Search(self, request: Any, _: Any) -> Any:
        return await self._reply("Search", request, retrieval_v1.SearchResponse())

    async def ReadChunks(self, request: Any, _: Any) -> Any:
        return await self._reply("ReadChunks", request, retrieval_v1.ReadChunksResponse())

    async def RecordFeedback(self, request: Any, _: Any) -> Any:
        return await self._reply("RecordFeedback", request, generation_v1.RecordFeedbackResponse())

    async def Answer(self, request: Any, _: Any) -> AsyncIterator[Any]:
        self.contexts.append(context.current())
        self.requests.append(request)
        async for message in self.streams["Answer"](request):
            yield message


@dataclass
class Gateway:
    """A running gateway and what stands around it."""

    url: str
    settings: GatewaySettings
    mesh: Mesh
    slot: Slot
    services: Services
    port: int

    async def key(
        self,
        *scopes: str,
        principals: tuple[str, ...] = (),
        project_id: str = "",
        **more: Any,
    ) -> str:
        """A new key, by default in a new project."""
        if not project_id:
            project_id = (await self.mesh.projects.create(uuid.uuid4().hex, {})).id
        _, secret = await self.mesh.keys.create(
            project_id, name="test", scopes=scopes, principals=principals, **more
        )
        return secret

    def client(self, key: str = "", **headers: str) -> httpx.AsyncClient:
        """A client that sends the key."""
        if key:
            headers["Authorization"] = f"Bearer {key}"
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20, trust_env=False)


@pytest.fixture(scope="session")
def keyring(scratch: Path) -> Path:
    directory = scratch / "gateway-keys"
    create_keyring(directory, ISSUERS)
    return directory


@pytest.fixture(scope="session")
async def database(postgres: Any) -> AsyncIterator[Database]:
    opened = await Database.connect(postgres.dsn("gateway"), role="citemesh_gateway", size=4)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
async def backend(keyring: Path) -> AsyncIterator[tuple[Services, str]]:
    services = Services()
    settings = GatewaySettings.model_construct(
        listen="127.0.0.1:0",
        max_concurrent_rpcs=100,
        max_watches=0,
        adaptive_limit=False,
        max_connection_age_seconds=300,
        drain_seconds=1,
    )
    server = Server(settings, Verifier.load(keyring / "keyring.json"))
    await server.start([INGESTION, RETRIEVAL, GENERATION])
    server.add(ingestion_v1.add_IngestionServiceServicer_to_server, services)
    server.add(retrieval_v1.add_RetrievalServiceServicer_to_server, services)
    server.add(generation_v1.add_GenerationServiceServicer_to_server, services)
    server.add(
        operations_v1.add_OperationsServiceServicer_to_server, OperationsServicer(services.breakers)
    )
    await server.set_serving(True)
    yield services, f"127.0.0.1:{server.port}"
    await server.drain()


@asynccontextmanager
async def run_gateway(
    database: Database, backend: tuple[Services, str], keyring: Path, **changed: Any
) -> AsyncIterator[Gateway]:
    """A gateway with these settings."""
    services, address = backend
    services.clear()
    settings = GatewaySettings(**{"listen": "127.0.0.1:0", "drain_seconds": 1.0, **changed})
    keys, projects, limits = ApiKeys(database), Projects(database), Limits(settings)
    channels = [MeshChannel(address, name) for name in (INGESTION, RETRIEVAL, GENERATION)]
    tokens = TokenVerifier(settings) if settings.jwt_jwks else None
    signer = Signer.load(keyring / "gateway.key")
    operations = Operations({"generation": address}, signer)
    mesh = Mesh(
        settings=settings,
        contexts=Contexts(signer),
        projects=projects,
        keys=keys,
        authenticator=Authenticator(keys, projects, limits, tokens, settings.key_cache_seconds),
        limits=limits,
        admission=admission(settings),
        operations=operations,
        ingestion=ingestion_v1.IngestionServiceAsyncStub(channels[0]),
        retrieval=retrieval_v1.RetrievalServiceAsyncStub(channels[1]),
        generation=generation_v1.GenerationServiceAsyncStub(channels[2]),
        addresses={"retrieval": address},
    )
    slot = Slot(Readiness(), mesh)
    listener = listen("127.0.0.1:0")
    port = listener.getsockname()[1]
    http = http_server(settings, slot)
    serving = asyncio.create_task(http.serve([listener]))
    try:
        yield Gateway(f"http://127.0.0.1:{port}", settings, mesh, slot, services, port)
    finally:
        mesh.draining.set()
        http.should_exit = True
        await serving
        await operations.close()
        for channel in channels:
            await channel.close()


@pytest.fixture(scope="session")
async def running_gateway(
    database: Database, backend: tuple[Services, str], keyring: Path
) -> AsyncIterator[Gateway]:
    # The tests fail to authenticate more often than anybody should.
    async with run_gateway(database, backend, keyring, failure_limit="10000/minute") as running:
        yield running


@pytest.fixture
def gateway(running_gateway: Gateway) -> Gateway:
    """A gateway with the default settings; tests that change its state start their own."""
    running_gateway.services.clear()
    return running_gateway


@pytest.fixture
def start_gateway(
    database: Database, backend: tuple[Services, str], keyring: Path
) -> Callable[..., Any]:
    """Starts a gateway with other settings: `async with start_gateway(key_limit=...) as g`."""

    def start(**changed: Any) -> Any:
        return run_gateway(database, backend, keyring, **changed)

    return start
