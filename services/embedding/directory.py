"""The spaces as this process knows them: which is active, and who embeds in each."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import asyncpg

from meshkit.errors import MeshError, NotFound
from meshkit.logging import logger
from services.embedding.embedder import Embedder
from services.embedding.registry import SpaceRegistry
from services.embedding.spaces import Space, SpaceState

log = logger(__name__)


class SpaceDirectory:
    """Answers from memory which embedder serves a space; follows the registry.

    Between a switch and the next look at the registry a process still embeds in the
    former space. That mixes nothing: each answer names its space, and a standby
    space is still searched by its own vectors.

    Args:
        registry: Where spaces are registered.
        embedders: This process's embedders by the name of their space, in the order of
            the setting.
    """

    def __init__(self, registry: SpaceRegistry, embedders: Mapping[str, Embedder]) -> None:
        self._registry = registry
        self._embedders = dict(embedders)
        self._active = ""
        self._standbys: tuple[str, ...] = ()

    async def open(self) -> None:
        """Registers this process's spaces.

        Raises:
            Precondition: SPACE_MISMATCH or SPACE_NOT_CONFIGURED, naming both sides.
        """
        identities = {name: each.identity for name, each in self._embedders.items()}
        self._note(await self._registry.open(identities))
        first = next(iter(self._embedders))
        if self._active != first:
            log.warning("the active space is not the first one set", active=self._active, set=first)

    def resolve(self, name: str) -> Embedder:
        """The embedder of a space; of the active one when the name is empty.

        Raises:
            NotFound: SPACE_UNKNOWN: this process does not embed in that space.
        """
        wanted = name or self._active
        embedder = self._embedders.get(wanted)
        if embedder is None:
            raise NotFound(
                "SPACE_UNKNOWN",
                f"Space {wanted} is not one of CITEMESH_EMBEDDING_SPACES, which are "
                f"{', '.join(self._embedders)}.",
            )
        return embedder

    def standbys(self) -> Sequence[Embedder]:
        """Who can stand in for the active space, in the order of the setting."""
        return [self._embedders[name] for name in self._embedders if name in self._standbys]

    async def all(self) -> list[Space]:
        """Every registered space, the active one first, then by age."""
        spaces = await self._registry.all()
        self._note(spaces)
        return spaces

    async def create(self, name: str) -> Space:
        """Registers a configured space; see `SpaceRegistry.create`."""
        return await self._registry.create(self.resolve(name).identity)

    async def set_state(self, name: str, state: SpaceState) -> Space:
        """Says whether a space is filled; see `SpaceRegistry.set_state`."""
        space = await self._registry.set_state(name, state)
        await self.all()
        log.info("space changed", space=name, state=state.value)
        return space

    async def switch(self, name: str, request_id: str) -> tuple[Space, Space]:
        """Makes a configured space the active one; see `SpaceRegistry.switch`."""
        embedder = self.resolve(name)
        active, previous = await self._registry.switch(embedder.identity.name, request_id)
        await self.all()
        log.info("space switched", active=active.identity.name, previous=previous.identity.name)
        return active, previous

    def embedder_of(self, name: str) -> Embedder | None:
        """The embedder of a registered space; None when this process has none."""
        return self._embedders.get(name)

    async def follow(self, seconds: float) -> None:
        """Looks at the registry again and again, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.all()
            except (MeshError, asyncpg.PostgresError, TimeoutError) as error:
                log.warning("registry of spaces not read", error=type(error).__name__)

    def _note(self, spaces: Sequence[Space]) -> None:
        found = next(s.identity.name for s in spaces if s.state is SpaceState.ACTIVE)
        if self._active and found != self._active:
            log.info("active space changed", active=found, previous=self._active)
        self._active = found
        self._standbys = tuple(
            space.identity.name for space in spaces if space.state is SpaceState.STANDBY
        )
