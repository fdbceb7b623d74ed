"""What the mesh consists of: each process, what it needs and what it owns.

The supervisor starts these, the migrator migrates their schemas, the channel
factory knows their names. Modules are named, never imported, so that the floor
below stays below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Schema:
    """A Postgres schema and the package that holds its migrations."""

    name: str
    migrations: str


@dataclass(frozen=True, slots=True)
class Component:
    """One process of the mesh."""

    name: str
    """Name it is dialled by and shown under: `embedding_bulk`."""
    module: str
    """Run as `python -m <module>`."""
    service: str
    """Service it is an instance of; names its settings prefix and its identity."""
    grpc_service: str = ""
    """Full name of its gRPC service, for health checks; empty for the gateway."""
    schemas: tuple[Schema, ...] = ()
    """Schemas this service owns."""
    uses_database: bool = True
    """Whether the process connects to Postgres."""
    signs: bool = False
    """Whether the process has a signing key of its own."""
    calls: tuple[str, ...] = ()
    """Components it dials; the network policies are compared with this."""
    observes: tuple[str, ...] = ()
    """Components it asks how they and their providers are, and does without; the network
    policies let it through to them as well."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that make this instance what it is."""
    calls_providers: bool = False
    """Whether the process is given the API keys of providers."""
    nice: int = 0
    """Added to the process's nice value once it serves: bulk work yields to questions."""


GATEWAY = Component(
    name="gateway",
    module="gateway",
    service="gateway",
    schemas=(
        Schema("gateway", "gateway.migrations"),
        Schema("usage", "gateway.usage_migrations"),
    ),
    signs=True,
    calls=("ingestion", "retrieval", "generation"),
    observes=("embedding", "embedding_bulk", "rerank"),
)

COMPONENTS: tuple[Component, ...] = (
    Component(
        name="guardrail",
        module="services.guardrail",
        service="guardrail",
        grpc_service="citemesh.guardrail.v1.GuardrailService",
        uses_database=False,
    ),
    Component(
        name="embedding",
        module="services.embedding",
        service="embedding",
        grpc_service="citemesh.embedding.v1.EmbeddingService",
        schemas=(Schema("embedding", "services.embedding.migrations"),),
        environment={"CITEMESH_EMBEDDING_LANE": "query"},
        calls_providers=True,
    ),
    Component(
        name="embedding_bulk",
        module="services.embedding",
        service="embedding",
        grpc_service="citemesh.embedding.v1.EmbeddingService",
        environment={"CITEMESH_EMBEDDING_LANE": "bulk"},
        calls_providers=True,
        # A batch of 32 chunks needs 0.4 s of a core and has 120 s: enough on a full machine.
        nice=19,
    ),
    Component(
        name="rerank",
        module="services.rerank",
        service="rerank",
        grpc_service="citemesh.rerank.v1.RerankService",
        calls_providers=True,
    ),
    Component(
        name="retrieval",
        module="services.retrieval",
        service="retrieval",
        grpc_service="citemesh.retrieval.v1.RetrievalService",
        schemas=(Schema("retrieval", "services.retrieval.migrations"),),
        signs=True,
        calls=("embedding", "embedding_bulk", "rerank"),
    ),
    Component(
        name="ingestion",
        module="services.ingestion",
        service="ingestion",
        grpc_service="citemesh.ingestion.v1.IngestionService",
        schemas=(Schema("ingestion", "services.ingestion.migrations"),),
        signs=True,
        calls=("guardrail", "embedding_bulk", "retrieval"),
    ),
    Component(
        name="generation",
        module="services.generation",
        service="generation",
        grpc_service="citemesh.generation.v1.GenerationService",
        schemas=(Schema("generation", "services.generation.migrations"),),
        calls_providers=True,
        calls=("guardrail", "embedding", "retrieval", "rerank"),
    ),
    GATEWAY,
)

BY_NAME: dict[str, Component] = {component.name: component for component in COMPONENTS}
OPERATIONS = "citemesh.operations.v1.OperationsService"
"""Served by every component that calls providers, beside its own service."""
SCHEMAS: tuple[Schema, ...] = tuple(schema for c in COMPONENTS for schema in c.schemas)
RUNTIME_ROLES: tuple[str, ...] = tuple(
    dict.fromkeys(f"citemesh_{c.service}" for c in COMPONENTS if c.uses_database)
)
ISSUERS: tuple[str, ...] = tuple(dict.fromkeys(c.service for c in COMPONENTS if c.signs))
