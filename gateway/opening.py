"""Opens what the gateway needs: database, stubs, limits, and its own periodic work."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import asyncpg
from grpc_health.v1 import health_pb2, health_pb2_grpc

from citemesh.generation import v1 as generation_v1
from citemesh.ingestion import v1 as ingestion_v1
from citemesh.retrieval import v1 as retrieval_v1
from gateway.admission import admission
from gateway.api_keys import ApiKeys
from gateway.auth import Authenticator
from gateway.contexts import Contexts
from gateway.json_web_tokens import TokenVerifier
from gateway.limits import Limits
from gateway.mesh import Mesh
from gateway.operations import Operations
from gateway.projects import Projects
from gateway.readiness import Check, Readiness
from gateway.settings import GatewaySettings
from meshkit.channel import MeshChannel
from meshkit.components import BY_NAME, COMPONENTS, GATEWAY
from meshkit.database.pool import Database
from meshkit.errors import MeshError
from meshkit.logging import logger
from meshkit.process import CLOCK, Process

log = logger(__name__)

HEALTH_SECONDS = 0.8
TIDY_SECONDS = 30.0


def addresses() -> dict[str, str]:
    """Where each service is, as far as this process was told."""
    found = {
        component.name: os.environ.get(f"CITEMESH_{component.name.upper()}_ADDRESS", "")
        for component in COMPONENTS
        if component.grpc_service
    }
    return {name: address for name, address in found.items() if address}


PARTS = (("retrieval", "opensearch"),)
"""What a service can do without, and says when it misses it."""
CLOCK_OF = "clock of {}"
"""Named by readiness while it was just set, or differs from Postgres'."""


def watch_services(process: Process[GatewaySettings], readiness: Readiness) -> None:
    """Makes every service whose address is known a part of the readiness report.

    Those the gateway calls are required; the others make answers poorer.
    """
    for name in addresses():
        check = _health_of(process.channel(name), BY_NAME[name].grpc_service)
        readiness.add(name, check, required=name in GATEWAY.calls)
    for name, part in PARTS:
        if name in addresses():
            check = _part_of(process.channel(name), f"{BY_NAME[name].grpc_service}/{part}")
            readiness.add(part, check, required=False)
    for name in addresses():
        check = _part_of(process.channel(name), f"{BY_NAME[name].grpc_service}/{CLOCK}")
        readiness.add(CLOCK_OF.format(name), check, required=False)
    readiness.add(CLOCK_OF.format("gateway"), _clock_of(process), required=False)


def _clock_of(process: Process[GatewaySettings]) -> Check:
    async def check() -> bool:
        return process.clock_relied_on

    return check


def _part_of(channel: MeshChannel, part: str) -> Check:
    """False when a service says that it misses a part; one that uses none says nothing."""
    stub: Any = health_pb2_grpc.HealthStub(channel)

    async def check() -> bool:
        try:
            answer = await stub.Check(
                health_pb2.HealthCheckRequest(service=part), timeout=HEALTH_SECONDS
            )
        except MeshError:
            return True
        return bool(answer.status != health_pb2.HealthCheckResponse.NOT_SERVING)

    return check


def _health_of(channel: MeshChannel, service: str) -> Check:
    stub: Any = health_pb2_grpc.HealthStub(channel)

    async def check() -> bool:
        try:
            answer = await stub.Check(
                health_pb2.HealthCheckRequest(service=service), timeout=HEALTH_SECONDS
            )
        except MeshError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    return check


def _answers(database: Database) -> Check:
    async def check() -> bool:
        try:
            async with database.connection() as connection:
                await connection.execute("SELECT 1")
        except (MeshError, asyncpg.PostgresError):
            return False
        return True

    return check


async def open_mesh(process: Process[GatewaySettings], readiness: Readiness) -> Mesh:
    """Everything the routes work with; waits for the database and its schemas.

    Raises:
        SettingsInvalid: naming the variable that is missing or wrong.
    """
    settings = process.settings
    signer = process.signer()
    limits = Limits(settings)
    operations = Operations(addresses(), signer, process.tls)
    process.stack.push_async_callback(operations.close)
    readiness.watch_breakers(operations.breakers)
    tokens = TokenVerifier(settings) if settings.jwt_jwks else None
    ingestion = ingestion_v1.IngestionServiceAsyncStub(process.channel("ingestion"))
    retrieval = retrieval_v1.RetrievalServiceAsyncStub(process.channel("retrieval"))
    generation = generation_v1.GenerationServiceAsyncStub(process.channel("generation"))
    database = await process.database("gateway", "usage")
    readiness.add("database", _answers(database), required=True)
    keys, projects = ApiKeys(database), Projects(database)
    authenticator = Authenticator(keys, projects, limits, tokens, settings.key_cache_seconds)
    process.background("usage sweep", _sweep(projects, settings.sweep_seconds))
    process.background("tidying", _tidy(authenticator, limits))
    return Mesh(
        settings=settings,
        contexts=Contexts(signer),
        projects=projects,
        keys=keys,
        authenticator=authenticator,
        limits=limits,
        admission=admission(settings),
        operations=operations,
        ingestion=ingestion,
        retrieval=retrieval,
        generation=generation,
        addresses=addresses(),
        draining=process.draining,
    )


async def _sweep(projects: Projects, seconds: float) -> None:
    """Releases reservations of callers that died."""
    while True:
        await asyncio.sleep(seconds)
        try:
            released = await projects.sweep()
        except (MeshError, asyncpg.PostgresError) as error:
            log.warning("usage sweep postponed", error=type(error).__name__)
            continue
        if released:
            log.warning("orphaned reservations released", count=released)


async def _tidy(authenticator: Authenticator, limits: Limits) -> None:
    """Forgets counters that are over and writes down which keys were used."""
    while True:
        await asyncio.sleep(TIDY_SECONDS)
        limits.sweep()
        try:
            await authenticator.write_last_used()
        except (MeshError, asyncpg.PostgresError) as error:
            log.warning("last use of keys not written yet", error=type(error).__name__)
