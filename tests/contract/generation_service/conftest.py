"""A running answer pipeline, and somebody who asks it."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from citemesh.embedding import v1 as embedding_v1
from citemesh.generation import v1 as generation_v1
from citemesh.guardrail import v1 as guardrail_v1
from citemesh.rerank import v1 as rerank_v1
from citemesh.retrieval import v1 as retrieval_v1
from meshkit.channel import MeshChannel
from meshkit.components import BY_NAME
from meshkit.database.pool import Database
from meshkit.identity import Signer, Verifier, create_keyring
from meshkit.server import Server
from meshkit.usage import Budget
from services.generation.calls.finding import FindingCalls
from services.generation.calls.guardrail import GuardrailCalls
from services.generation.calls.scoring import RerankCalls
from services.generation.extractive import ExtractiveGenerator
from services.generation.failover import LanguageModels
from services.generation.pipeline import Answerer, AnswerPolicy
from services.generation.servicer import GenerationServicer
from services.generation.store import Store
from services.generation.writing import Writing
from tests.contract.generation_room import (
    CALIBRATIONS,
    LEAVE,
    TRAVEL,
    Caller,
    Embedding,
    Guardrail,
    Mesh,
    Plain,
    Rerank,
    Retrieval,
    World,
)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    create_keyring(directory, ["gateway", "generation"])
    return directory


@pytest.fixture
async def mesh(keys: Path, postgres: Any) -> AsyncIterator[Mesh]:
    world = World(chunks=[("doc_leave", LEAVE, []), ("doc_travel", TRAVEL, [])])
    verifier = Verifier.load(keys / "keyring.json")
    servers: list[Server] = []
    channels: list[MeshChannel] = []

    async def serve(name: str, register: Any, servicer: Any) -> tuple[Server, MeshChannel]:
        server = Server(Plain(drain_seconds=0), verifier)
        grpc_service = BY_NAME[name].grpc_service
        await server.start([grpc_service])
        server.add(register, servicer)
        await server.set_serving(True)
        channel = MeshChannel(f"127.0.0.1:{server.port}", grpc_service)
        servers.append(server)
        channels.append(channel)
        return server, channel

    guardrail, to_guardrail = await serve(
        "guardrail",
        guardrail_v1.add_GuardrailServiceServicer_to_server,
        Guardrail(world),
    )
    _, to_embedding = await serve(
        "embedding", embedding_v1.add_EmbeddingServiceServicer_to_server, Embedding(world)
    )
    _, to_retrieval = await serve(
        "retrieval", retrieval_v1.add_RetrievalServiceServicer_to_server, Retrieval(world)
    )
    _, to_rerank = await serve(
        "rerank", rerank_v1.add_RerankServiceServicer_to_server, Rerank(world)
    )
    database = await Database.connect(
        postgres.dsn("generation"), role="citemesh_generation", size=4
    )
    store = Store(database, cache_lifetime=timedelta(hours=1), retention=timedelta(days=1))
    budget = Budget(database)
    answerer = Answerer(
        guardrail=GuardrailCalls(guardrail_v1.GuardrailServiceAsyncStub(to_guardrail)),
        finding=FindingCalls(
            embedding_v1.EmbeddingServiceAsyncStub(to_embedding),
            retrieval_v1.RetrievalServiceAsyncStub(to_retrieval),
        ),
        generator=ExtractiveGenerator(
            RerankCalls(rerank_v1.RerankServiceAsyncStub(to_rerank)), calibrations=CALIBRATIONS
        ),
        store=store,
        budget=budget,
        # The stand-in's vectors are all alike: what is served again is decided by words.
        policy=AnswerPolicy(similarity=0.9),
    )
    _, to_generation = await serve(
        "generation",
        generation_v1.add_GenerationServiceServicer_to_server,
        GenerationServicer(
            answerer, store, Writing(LanguageModels([], first_word_seconds=1), budget, 30)
        ),
    )
    stub = generation_v1.GenerationServiceAsyncStub(to_generation)
    guard = guardrail_v1.GuardrailServiceAsyncStub(to_guardrail)
    yield Mesh(world, stub, guardrail, guard, Signer.load(keys / "gateway.key"), database, budget)
    for channel in channels:
        await channel.close()
    for server in servers:
        await server.drain()
    await database.close()


@pytest.fixture
def caller(mesh: Mesh) -> Caller:
    return Caller(f"prj_{uuid4().hex}", mesh)
