"""What every provider of relevance scores looks like from inside the service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.rerank.ranking import Scored


@dataclass(frozen=True, slots=True)
class Reading:
    """What a provider returned."""

    scored: Sequence[Scored]
    """Passages that were read in time; order without meaning."""
    input_tokens: int
    """Tokens the model read."""
    cost_micro_usd: int = 0
    """Millionths of a US dollar."""
    estimated: bool = False
    """Whether the tokens were estimated, because the provider named none."""


class Reranker(Protocol):
    """Scores passages against a query. Opened at the start of a process, closed at its end."""

    @property
    def provider(self) -> str:
        """Who scores, such as `local`."""
        ...

    @property
    def model(self) -> str:
        """The model in the provider's own spelling."""
        ...

    @property
    def languages(self) -> Sequence[str]:
        """It was trained for, by ISO 639-1; empty means any."""
        ...

    @property
    def patience_seconds(self) -> float:
        """Within which it nearly always has scored the passages of a search."""
        ...

    def estimate_micro_usd(self, query: str, passages: Sequence[str]) -> int:
        """At most what scoring costs, in millionths of a US dollar."""
        ...

    async def score(
        self, query: str, passages: Sequence[str], *, whole: bool, until: float | None
    ) -> Reading:
        """Scores passages, the first ones first. Cancelling the call ends the work.

        Args:
            query: The question.
            passages: Texts in the caller's order, best first.
            whole: Read each passage from its start, rather than its best window.
            until: `time.monotonic()` at which to return what was read by then.

        Raises:
            ProviderError: see `meshkit.providers.errors`.
        """
        ...

    async def close(self) -> None:
        """Gives back threads and connections."""
        ...
