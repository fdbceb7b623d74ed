"""A standby space stands in for questions when the active one's provider fails; nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from meshkit import deadline
from meshkit.context import RequestContext, acting_as
from meshkit.errors import BudgetExhausted, Internal, InvalidInput, MeshError, Unavailable
from meshkit.providers.catalogue import Operation
from meshkit.providers.errors import MalformedResponse, Overloaded, ProviderError, Target
from meshkit.usage import Spend
from services.embedding.directory import SpaceDirectory
from services.embedding.embedder import Embedded, Task
from services.embedding.embedding import ACTIVE_SHARE, Embedding
from services.embedding.query_cache import QueryCache
from services.embedding.spaces import Identity, Limits, Space, SpaceState

TARGET = Target("gemini", "a", Operation.EMBED)


@dataclass
class Fake:
    """An embedder that fails when told to."""

    name: str
    dimensions: int = 3
    error: ProviderError | None = None
    calls: int = 0
    seconds: list[float | None] = field(default_factory=list)
    limits: Limits = field(default_factory=lambda: Limits(4, 100))
    worth_caching: bool = False
    micro_usd_per_million_tokens: int = 0

    @property
    def identity(self) -> Identity:
        provider, _, rest = self.name.partition("/")
        return Identity(self.name, provider, rest, self.dimensions, True, f"v-{self.name}")

    def estimate_micro_usd(self, texts: Sequence[str]) -> int:
        return 0

    async def embed(self, texts: Sequence[str], task: Task) -> Embedded:
        self.calls += 1
        self.seconds.append(deadline.remaining())
        if self.error is not None:
            raise self.error
        return Embedded(np.eye(self.dimensions, dtype=np.float32)[[0] * len(texts)], 1)

    async def close(self) -> None:
        """Nothing to close."""


@dataclass
class Registry:
    """Spaces in memory, where `SpaceRegistry` has them in Postgres."""

    states: dict[str, SpaceState]
    identities: dict[str, Identity] = field(default_factory=dict)

    async def open(self, configured: dict[str, Identity]) -> list[Space]:
        self.identities = configured
        return await self.all()

    async def all(self) -> list[Space]:
        return [
            Space(self.identities[name], state, datetime.now(UTC))
            for name, state in self.states.items()
        ]


@dataclass
class Purse:
    """A budget, where `Budget` asks Postgres."""

    error: MeshError | None = None

    @asynccontextmanager
    async def spend(self, *, provider: str, model: str, **_: Any) -> AsyncIterator[Spend]:
        if self.error is not None and provider == "gemini":
            raise self.error
        yield Spend(provider, model)


@dataclass
class Lane:
    """A process of the embedding service with three spaces, the second of which is not filled."""

    active: Fake
    building: Fake
    standby: Fake
    purse: Purse
    embedding: Any = None


@pytest.fixture
async def lane() -> Lane:
    made = Lane(Fake("gemini/a@3"), Fake("local/b@3"), Fake("local/c@2", 2), Purse())
    states = (SpaceState.ACTIVE, SpaceState.BUILDING, SpaceState.STANDBY)
    fakes = {fake.name: fake for fake in (made.active, made.building, made.standby)}
    registry: Any = Registry(dict(zip(fakes, states, strict=True)))
    embedders: Any = fakes
    directory = SpaceDirectory(registry, embedders)
    await directory.open()
    purse: Any = made.purse
    stored: Any = None
    memory = QueryCache(10, 60.0, lambda: 0.0)
    made.embedding = Embedding(directory, purse, memory, stored)
    return made


@pytest.fixture(autouse=True)
def asking() -> Iterator[None]:
    context = RequestContext("prj", (), frozenset({"read"}), "key", "req", "gateway", 2e9, "")
    with acting_as(context):
        yield


@pytest.mark.parametrize("error", [Overloaded(TARGET), MalformedResponse(TARGET, code="X")])
async def test_a_question_is_embedded_in_the_standby_space_and_says_so(
    lane: Lane, error: ProviderError
) -> None:
    lane.active.error = error
    found = await lane.embedding.embed(["a"], Task.QUERY)
    assert found.identity.name == "local/c@2"
    assert found.vectors[0].shape == (2,)
    assert lane.building.calls == 0
    # Its vector is cached under its own space: back with the provider nothing of it is left.
    lane.active.error = None
    found = await lane.embedding.embed(["a"], Task.QUERY)
    assert (found.identity.name, found.cached_count) == ("gemini/a@3", 0)


async def test_the_active_space_leaves_time_for_another(lane: Lane) -> None:
    lane.active.error = Overloaded(TARGET)
    with deadline.within(10.0):
        await lane.embedding.embed(["a"], Task.QUERY)
    [first], [second] = lane.active.seconds, lane.standby.seconds
    assert first is not None
    assert second is not None
    assert first <= 10.0 * ACTIVE_SHARE < second


async def test_a_document_or_a_named_space_is_never_embedded_elsewhere(lane: Lane) -> None:
    lane.active.error = Overloaded(TARGET)
    with pytest.raises(Unavailable):
        await lane.embedding.embed(["a"], Task.DOCUMENT)
    with pytest.raises(Unavailable):
        await lane.embedding.embed(["a"], Task.QUERY, space="gemini/a@3")
    assert lane.standby.calls == 0


async def test_without_a_standby_that_works_the_first_error_is_told(lane: Lane) -> None:
    lane.active.error = MalformedResponse(TARGET, code="X")
    lane.standby.error = Overloaded(TARGET)
    with pytest.raises(Internal, match="VECTOR_INVALID"):
        await lane.embedding.embed(["a"], Task.QUERY)


async def test_what_is_refused_for_the_caller_is_refused(lane: Lane) -> None:
    lane.purse.error = BudgetExhausted("BUDGET_EXHAUSTED", "no money")
    with pytest.raises(BudgetExhausted):
        await lane.embedding.embed(["a"], Task.QUERY)
    with pytest.raises(InvalidInput, match="TOO_MANY_TEXTS"):
        await lane.embedding.embed(["a"] * 5, Task.QUERY)
    assert lane.standby.calls == 0
