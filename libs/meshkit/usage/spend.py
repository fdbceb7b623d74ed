"""What a spend came to: by each model that took part, and as lines of the ledger. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger."""

    project_id: str
    stage: str
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    cost_micro_usd: int
    request_id: str
    reservation: UUID | None = None
    """The block it was paid from; None where nothing was reserved."""

    @property
    def came_to_nothing(self) -> bool:
        """Whether neither tokens nor money were used."""
        return not (self.input_tokens or self.output_tokens or self.cost_micro_usd)


@dataclass(frozen=True, slots=True)
class Used:
    """What one model took."""

    provider: str
    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cost_micro_usd: int = 0
    estimated: bool = False
    """Whether the tokens were estimated."""


class Spend:
    """A spend under way; `settle` or `add` say what it came to."""

    def __init__(self, provider: str, model: str) -> None:
        self._first = Used(provider, model)
        self._used: list[Used] = []

    @property
    def used(self) -> list[Used]:
        """What was used by each model so far."""
        return list(self._used)

    @property
    def lines(self) -> list[Used]:
        """The same for the ledger, where a spend that came to nothing is a line of zeros."""
        return self.used or [self._first]

    def settle(self, *, input_tokens: int, output_tokens: int = 0, cost_micro_usd: int = 0) -> None:
        """Notes what the model really used, in tokens and millionths of a dollar."""
        self._used = [
            replace(
                self._first,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cost_micro_usd=cost_micro_usd,
            )
        ]

    def add(self, used: Used) -> None:
        """Notes what one more model used, where several took part or had to be tried."""
        self._used.append(used)
