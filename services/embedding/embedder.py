"""What every provider of vectors looks like from inside the service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from services.embedding.spaces import Identity, Limits
from services.embedding.vectors import Vectors


class Task(StrEnum):
    """What a vector will be used for."""

    QUERY = "query"
    DOCUMENT = "document"


@dataclass(frozen=True, slots=True)
class Embedded:
    """What a provider returned."""

    vectors: Vectors
    """`[texts, dimensions]`, as the provider gave them: not yet checked."""
    input_tokens: int
    """Tokens the model read."""
    cost_micro_usd: int = 0
    """Millionths of a US dollar."""
    estimated: bool = False
    """Whether the tokens were estimated, because the provider named none."""


class Embedder(Protocol):
    """Embeds texts in one space. Opened at the start of a process, closed at its end."""

    @property
    def identity(self) -> Identity:
        """The space it embeds in."""
        ...

    @property
    def limits(self) -> Limits:
        """What one call may carry."""
        ...

    @property
    def worth_caching(self) -> bool:
        """Whether asking Postgres for a vector is cheaper than computing it."""
        ...

    @property
    def micro_usd_per_million_tokens(self) -> int:
        """What it costs; 0 for a model that runs here."""
        ...

    def estimate_micro_usd(self, texts: Sequence[str]) -> int:
        """At most what embedding these texts costs, in millionths of a US dollar."""
        ...

    async def embed(self, texts: Sequence[str], task: Task) -> Embedded:
        """Embeds texts, in order. Cancelling the call ends the work.

        Raises:
            ProviderError: see `meshkit.providers.errors`.
        """
        ...

    async def close(self) -> None:
        """Gives back threads and connections."""
        ...
