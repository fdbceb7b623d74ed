"""Spaces of two simulated models over a real registry, and the parts that fill them."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from meshkit.database.pool import Database
from meshkit.errors import Internal, MeshError
from services.embedding.registry import SpaceRegistry
from services.embedding.spaces import Identity, parse_name
from services.embedding.spaces import SpaceState as RegisteredState
from services.retrieval.filling.filler import Filler, FillingPolicy
from services.retrieval.filling.lives import SpaceLives
from services.retrieval.filling.registry import KnownSpace, SpaceState
from services.retrieval.filling.work import SpaceWork
from services.retrieval.passages import Vectors
from services.retrieval.search import Query
from services.retrieval.upstream import QueryVector
from tests.contract.retrieval_room import Room, open_room

OLD = "local/old@24"
SAME = "local/new@24"
"""Another model of the same length: its vectors would fit the old one's table."""
LONGER = "gemini/new@40"
TEXTS_A_CALL = 4


def model_vector(space: str, text: str) -> Vectors:
    """The vector of a text by a space's model: no two models give the same one."""
    name = parse_name(space)
    total = np.zeros(name.dimensions, dtype=np.float32)
    for word in text.lower().split():
        seed = zlib.crc32(f"{name.model}@{name.dimensions} {word}".encode())
        total += np.random.default_rng(seed).normal(size=name.dimensions).astype(np.float32)
    vector: Vectors = total / np.linalg.norm(total)
    return vector


def identity(space: str) -> Identity:
    name = parse_name(space)
    return Identity(space, name.provider, name.model, name.dimensions, True, f"v-{name.model}")


@dataclass
class Models:
    """The embedding service: its own registry in Postgres, and models that are simulated.

    Holds calls while `gate` is closed; fails with `error`, or for texts that hold `refuses`.
    """

    registry: SpaceRegistry
    spaces_set: tuple[str, ...]
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    texts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often each text was paid for, by space."""
    error: MeshError | None = None
    refuses: str = ""
    price: int = 150_000
    tokens_per_text: int = 8
    finished: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    async def spaces(self) -> Sequence[KnownSpace]:
        return [
            KnownSpace(
                name=space.identity.name,
                state=SpaceState(space.state),
                version=space.identity.version,
                texts_per_call=TEXTS_A_CALL if space.identity.name in self.spaces_set else 0,
                tokens_per_text=self.tokens_per_text,
                tokens_per_minute=0,
                micro_usd_per_million_tokens=self.price,
            )
            for space in await self.registry.all()
        ]

    async def embed(
        self, project_id: str, space: KnownSpace, texts: Sequence[str]
    ) -> tuple[Vectors, str]:
        assert len(texts) <= TEXTS_A_CALL
        self.entered.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        if self.refuses and any(self.refuses in text for text in texts):
            raise Internal("VECTOR_INVALID", "The model returned zeros.")
        self.texts.update((space.name, text) for text in texts)
        self.finished += 1
        return np.array([model_vector(space.name, text) for text in texts]), space.version

    async def set_state(self, name: str, state: SpaceState) -> None:
        await self.registry.set_state(name, RegisteredState(state))

    async def switch(self, name: str, request_id: str) -> tuple[str, str]:
        active, previous = await self.registry.switch(name, request_id)
        return active.identity.name, previous.identity.name

    async def embed_query(self, text: str, *, seconds: float, bypass_cache: bool) -> QueryVector:
        """As the query lane does: in the space that is active now."""
        active = (await self.registry.all())[0].identity
        return QueryVector(model_vector(active.name, text), active.name, version=active.version)


@dataclass
class Asked:
    """Questions asked again and again, and what was wrong with their answers."""

    spaces: Counter[str] = field(default_factory=Counter)
    """Answers by the space they were found in."""
    wrong: list[str] = field(default_factory=list)

    async def by(self, space: str) -> None:
        """Returns when a question was answered from a space."""

        async def answered() -> bool:
            return self.spaces[space] > 0

        await until(answered)


@dataclass
class Filling:
    """Retrieval's parts with two models."""

    room: Room
    models: Models
    lives: SpaceLives
    wake: asyncio.Event

    async def upload(
        self, project: str, document: str, texts: Sequence[str], space: str = "", version: int = 1
    ) -> None:
        """What ingestion does: embedded in the space that is active now, indexed, activated."""
        space = space or (await self.models.spaces())[0].name
        vectors = np.array([model_vector(space, text) for text in texts])
        await self.room.write(
            project, document, texts, space=space, vectors=vectors, version=version
        )
        await self.room.activate(project, document, len(texts), version=version)

    def filler(self, owner: str = "a", lease: float = 60.0) -> Filler:
        """A process's filler."""
        work = SpaceWork(self.room.database, owner, timedelta(seconds=lease))
        return Filler(work, self.models, policy(lease))

    @asynccontextmanager
    async def filling(self, *owners: str, lease: float = 60.0) -> AsyncIterator[None]:
        """Fillers at work inside the block, each as if in its own process."""
        tasks = []
        for owner in owners or ("a",):
            wake = self.wake if not tasks else asyncio.Event()
            tasks.append(asyncio.create_task(self.filler(owner, lease).run(wake)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def asking(self, project: str, text: str) -> AsyncIterator[Asked]:
        """Asks for a text that is there, inside the block."""
        asked = Asked()

        async def ask() -> None:
            while True:
                answer = await self.room.search(project, Query(text, rerank=False))
                best = answer.hits[0]
                if best.chunk.text != text or answer.degraded:
                    asked.wrong.append(f"{best.chunk.text} {list(answer.degraded)}")
                elif abs(best.signals.dense_similarity - 1.0) > 2e-3:
                    # Another model's vector of the same text lies elsewhere.
                    asked.wrong.append(f"{best.signals.dense_similarity} in {answer.space}")
                asked.spaces[answer.space] += 1
                await asyncio.sleep(0.01)

        task = asyncio.create_task(ask())
        try:
            yield asked
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def filled(self, space: str) -> None:
        """Returns when nothing is missing in a space."""
        await until(lambda: self._pending(space, 0))

    async def _pending(self, space: str, most: int) -> bool:
        [found] = await self.lives.describe(space)
        return found.followed and found.pending <= most

    async def vectors(self, space: str) -> dict[str, Vectors]:
        """What a space's table holds, by the text of the chunk."""
        number = await self.room.owner.fetchval(
            "SELECT number FROM retrieval.space_table WHERE space = $1", space
        )
        rows = await self.room.owner.fetch(
            f"SELECT c.body, e.embedding::text AS vector FROM retrieval.dense_{number} e "
            "LEFT JOIN retrieval.chunk c ON c.id = e.chunk_key"
        )
        return {row["body"]: np.array(eval(row["vector"]), np.float32) for row in rows}

    async def mixed(self, space: str) -> list[str]:
        """Texts whose vector in a space is not its own model's; None for one without a chunk."""
        return [
            text
            for text, vector in (await self.vectors(space)).items()
            if text is None or float(vector @ model_vector(space, text)) < 0.999
        ]

    async def live_texts(self) -> set[str]:
        rows = await self.room.owner.fetch(
            "SELECT c.body FROM retrieval.chunk c JOIN retrieval.document d "
            "ON d.project_id = c.project_id AND d.document_id = c.document_id "
            "AND d.live_version = c.version"
        )
        return {row["body"] for row in rows}


def policy(lease: float) -> FillingPolicy:
    return FillingPolicy(batch=64, parallel=2, lease_seconds=lease, poll_seconds=0.05)


async def until(condition: Any, seconds: float = 60.0) -> None:
    """Returns when an asynchronous condition holds."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def open_filling(
    alone: Any, directory: Path, *spaces: str, unasked: int = -1
) -> AsyncIterator[Filling]:
    """A room over a database of its own, in which the first space is the active one."""
    embedding = await Database.connect(alone.dsn("embedding"), role="citemesh_embedding", size=2)
    registry = SpaceRegistry(embedding)
    await registry.open({name: identity(name) for name in spaces})
    models = Models(registry, spaces)
    wake = asyncio.Event()
    try:
        async with open_room(
            alone.dsn("retrieval"), alone.owner_dsn, directory, embedder=models, wake=(wake,)
        ) as room:
            lives = SpaceLives(room.database, room.spaces, models, wake, unasked, 0.2)
            await lives.agree()
            yield Filling(room, models, lives, wake)
            await _empty(room.owner)
    finally:
        await embedding.close()


async def _empty(owner: Any) -> None:
    """Leaves nothing of any project or space."""
    tables = (
        "document, document_version, chunk, project_state, retired_version, lexical_outbox, "
        "applied_request, space_work, purged_project"
    )
    await owner.execute(f"SET search_path = retrieval; TRUNCATE {tables}; RESET search_path")
    await owner.execute(
        "SELECT retrieval.set_duty(number, 'none'), retrieval.drop_space(number) "
        "FROM retrieval.space_table"
    )
    await owner.execute("TRUNCATE embedding.space CASCADE")
