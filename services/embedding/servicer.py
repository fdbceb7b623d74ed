"""The RPCs of the embedding service: protobuf in, protobuf out."""

from __future__ import annotations

from typing import Any

from citemesh.embedding import v1
from citemesh.usage.v1 import Usage
from meshkit.context import ADMIN, INTERNAL, READ, WRITE, require_scope
from meshkit.errors import PermissionDenied
from services.embedding.directory import SpaceDirectory
from services.embedding.embedder import Task
from services.embedding.embedding import STAGE, Embedding
from services.embedding.spaces import Space, SpaceState

TASKS = {v1.EMBED_TASK_QUERY: Task.QUERY, v1.EMBED_TASK_DOCUMENT: Task.DOCUMENT}
STATES = {
    SpaceState.BUILDING: v1.SPACE_STATE_BUILDING,
    SpaceState.ACTIVE: v1.SPACE_STATE_ACTIVE,
    SpaceState.STANDBY: v1.SPACE_STATE_STANDBY,
    SpaceState.RETIRED: v1.SPACE_STATE_RETIRED,
}


class EmbeddingServicer(v1.EmbeddingServiceServicer):
    """Translates and delegates."""

    def __init__(self, embedding: Embedding, directory: SpaceDirectory) -> None:
        self._embedding = embedding
        self._directory = directory

    async def Embed(self, request: v1.EmbedRequest, _context: Any) -> v1.EmbedResponse:
        """Embeds texts in one space."""
        require_scope(READ, WRITE, ADMIN, INTERNAL)
        result = await self._embedding.embed(
            request.texts,
            TASKS[request.task],
            space=request.space,
            bypass_cache=request.bypass_cache,
        )
        return v1.EmbedResponse(
            vectors=[v1.Vector(values=vector.tolist()) for vector in result.vectors],
            space=result.identity.name,
            usage=Usage(
                stage=STAGE,
                provider=result.identity.provider,
                model=result.identity.model,
                input_tokens=result.input_tokens,
                cost_micro_usd=result.cost_micro_usd,
                estimated=result.estimated,
            ),
            cached_count=result.cached_count,
            space_version=result.identity.version,
        )

    async def ListSpaces(
        self, _request: v1.ListSpacesRequest, _context: Any
    ) -> v1.ListSpacesResponse:
        """Every space, the active one first."""
        require_scope(READ, WRITE, ADMIN, INTERNAL)
        spaces = await self._directory.all()
        return v1.ListSpacesResponse(spaces=[self._message(space) for space in spaces])

    async def CreateSpace(
        self, request: v1.CreateSpaceRequest, _context: Any
    ) -> v1.CreateSpaceResponse:
        """Registers a configured space."""
        require_scope(ADMIN, INTERNAL)
        return v1.CreateSpaceResponse(
            space=self._message(await self._directory.create(request.name))
        )

    async def SetSpaceState(
        self, request: v1.SetSpaceStateRequest, _context: Any
    ) -> v1.SetSpaceStateResponse:
        """Says whether a space is filled."""
        require_scope(INTERNAL)
        state = next(ours for ours, theirs in STATES.items() if theirs == request.state)
        return v1.SetSpaceStateResponse(
            space=self._message(await self._directory.set_state(request.name, state))
        )

    async def SwitchSpace(
        self, request: v1.SwitchSpaceRequest, _context: Any
    ) -> v1.SwitchSpaceResponse:
        """Makes a populated space the active one."""
        require_scope(ADMIN, INTERNAL)
        active, previous = await self._directory.switch(request.name, request.request_id)
        return v1.SwitchSpaceResponse(
            active=self._message(active), previous=self._message(previous)
        )

    async def PurgeProject(
        self, request: v1.PurgeProjectRequest, _context: Any
    ) -> v1.PurgeProjectResponse:
        """Forgets every cached vector of a project."""
        caller = require_scope(ADMIN, INTERNAL)
        if INTERNAL not in caller.scopes and caller.project_id != request.project_id:
            raise PermissionDenied("PROJECT_MISMATCH", "This context belongs to another project.")
        removed = await self._embedding.purge(request.project_id)
        return v1.PurgeProjectResponse(vectors_removed=removed)

    def _message(self, space: Space) -> v1.Space:
        identity = space.identity
        message = v1.Space(
            name=identity.name,
            provider=identity.provider,
            model=identity.model,
            dimensions=identity.dimensions,
            normalized=identity.normalized,
            version=identity.version,
            state=STATES[space.state],
        )
        message.create_time.FromDatetime(space.created_at)
        embedder = self._directory.embedder_of(identity.name)
        if embedder is not None:
            message.limits.max_texts_per_call = embedder.limits.max_texts_per_call
            message.limits.max_tokens_per_text = embedder.limits.max_tokens_per_text
            message.limits.tokens_per_minute = embedder.limits.tokens_per_minute
            message.micro_usd_per_million_tokens = embedder.micro_usd_per_million_tokens
        return message
