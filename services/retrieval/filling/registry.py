"""The spaces as the embedding service knows them, and the calls that fill and switch them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np

from citemesh.embedding import v1
from meshkit.context import acting_as
from meshkit.identity import Signer
from meshkit.ids import new_request_id
from services.retrieval.passages import Vectors

CALL_SECONDS = 10.0
EMBED_SECONDS = 120.0
MESH = "mesh"
"""Project of calls that are about no project."""


class SpaceState(StrEnum):
    """Where a space stands in its life."""

    BUILDING = "building"
    ACTIVE = "active"
    STANDBY = "standby"
    RETIRED = "retired"


STATES = {
    v1.SPACE_STATE_BUILDING: SpaceState.BUILDING,
    v1.SPACE_STATE_ACTIVE: SpaceState.ACTIVE,
    v1.SPACE_STATE_STANDBY: SpaceState.STANDBY,
    v1.SPACE_STATE_RETIRED: SpaceState.RETIRED,
}


@dataclass(frozen=True, slots=True)
class KnownSpace:
    """A registered space."""

    name: str
    state: SpaceState
    version: str
    """Fingerprint of weights, pooling and prefixes."""
    texts_per_call: int
    """0 for a space that the embedding service is not configured for: nobody can fill it."""
    tokens_per_text: int
    tokens_per_minute: int
    """0 when there is no such limit."""
    micro_usd_per_million_tokens: int

    @property
    def configured(self) -> bool:
        """Whether the embedding service can embed in it."""
        return self.texts_per_call > 0


class SpaceService(Protocol):
    """What filling needs of the embedding service. Calls raise MeshError."""

    async def spaces(self) -> Sequence[KnownSpace]:
        """Every space, the active one first."""
        ...

    async def embed(
        self, project_id: str, space: KnownSpace, texts: Sequence[str]
    ) -> tuple[Vectors, str]:
        """Document vectors, shape (texts, dimensions), and the fingerprint of their space."""
        ...

    async def set_state(self, name: str, state: SpaceState) -> None:
        """Says whether a space is filled."""
        ...

    async def switch(self, name: str, request_id: str) -> tuple[str, str]:
        """Makes a space the active one; returns its name and that of the one before."""
        ...


class EmbeddingSpaces:
    """See `SpaceService`. Spends are those of the project whose chunks are embedded.

    Args:
        bulk: Stub of the bulk lane.
        query: Stub of the query lane, which hears of a switch first.
        signer: This service's identity.
    """

    def __init__(
        self,
        bulk: v1.EmbeddingServiceAsyncStub,
        query: v1.EmbeddingServiceAsyncStub,
        signer: Signer,
    ) -> None:
        self._bulk = bulk
        self._query = query
        self._signer = signer

    async def spaces(self) -> Sequence[KnownSpace]:
        """See `SpaceService.spaces`."""
        with acting_as(self._signer.sign_background(MESH, (), new_request_id())):
            response = await self._bulk.ListSpaces(v1.ListSpacesRequest(), timeout=CALL_SECONDS)
        return [
            KnownSpace(
                name=space.name,
                state=STATES[space.state],
                version=space.version,
                texts_per_call=space.limits.max_texts_per_call,
                tokens_per_text=space.limits.max_tokens_per_text,
                tokens_per_minute=space.limits.tokens_per_minute,
                micro_usd_per_million_tokens=space.micro_usd_per_million_tokens,
            )
            for space in response.spaces
        ]

    async def embed(
        self, project_id: str, space: KnownSpace, texts: Sequence[str]
    ) -> tuple[Vectors, str]:
        """See `SpaceService.embed`."""
        request = v1.EmbedRequest(texts=texts, task=v1.EMBED_TASK_DOCUMENT, space=space.name)
        with acting_as(self._signer.sign_background(project_id, (), new_request_id())):
            response = await self._bulk.Embed(request, timeout=EMBED_SECONDS)
        values = [vector.values for vector in response.vectors]
        return np.array(values, dtype=np.float32), response.space_version

    async def set_state(self, name: str, state: SpaceState) -> None:
        """See `SpaceService.set_state`."""
        asked = next(theirs for theirs, ours in STATES.items() if ours is state)
        request = v1.SetSpaceStateRequest(name=name, state=asked)
        with acting_as(self._signer.sign_background(MESH, (), new_request_id())):
            await self._query.SetSpaceState(request, timeout=CALL_SECONDS)

    async def switch(self, name: str, request_id: str) -> tuple[str, str]:
        """See `SpaceService.switch`."""
        request = v1.SwitchSpaceRequest(name=name, request_id=request_id)
        with acting_as(self._signer.sign_background(MESH, (), request_id)):
            response = await self._query.SwitchSpace(request, timeout=CALL_SECONDS)
        return response.active.name, response.previous.name
