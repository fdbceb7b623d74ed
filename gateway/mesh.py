"""What the routes work with: the stubs of the services and the gateway's own parts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import Request

from gateway.api_keys import ApiKeys
from gateway.auth import Authenticator
from gateway.contexts import Contexts
from gateway.limits import Limits
from gateway.operations import Operations
from gateway.projects import Projects
from gateway.readiness import Readiness
from gateway.settings import GatewaySettings
from meshkit.admission import Admission
from meshkit.errors import Unavailable

if TYPE_CHECKING:
    from citemesh.generation import v1 as generation_v1
    from citemesh.ingestion import v1 as ingestion_v1
    from citemesh.retrieval import v1 as retrieval_v1


@dataclass(frozen=True, slots=True)
class Mesh:
    """Everything a route may need, opened once at start."""

    settings: GatewaySettings
    contexts: Contexts
    projects: Projects
    keys: ApiKeys
    authenticator: Authenticator
    limits: Limits
    admission: Admission
    operations: Operations
    ingestion: ingestion_v1.IngestionServiceAsyncStub
    retrieval: retrieval_v1.RetrievalServiceAsyncStub
    generation: generation_v1.GenerationServiceAsyncStub
    addresses: dict[str, str] = field(default_factory=dict)
    """Where internal clients dial the services, by component."""
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the process is about to stop; long streams end then."""


@dataclass(slots=True)
class Slot:
    """Where the application finds the mesh; empty until everything is open."""

    readiness: Readiness
    mesh: Mesh | None = None


def mesh_of(request: Request) -> Mesh:
    """The mesh behind the application.

    Raises:
        Unavailable: GATEWAY_STARTING until it is open.
    """
    slot: Slot = request.app.state.slot
    if slot.mesh is None:
        raise Unavailable(
            "GATEWAY_STARTING", "The gateway waits for the database; try again.", retry_after=1.0
        )
    return slot.mesh
