"""Quotas of a minute and a day, for each key and model, as the providers keep them. No I/O."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from loadtest.simulator.call import Call

MINUTE, DAY = 60.0, 86_400.0


@dataclass(frozen=True, slots=True)
class Quota:
    """What one key may do; 0 means no limit."""

    provider: str = "*"
    operation: str = "*"
    model: str = "*"
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    requests_per_day: int = 0

    def covers(self, call: Call) -> bool:
        """Whether the quota is about the call."""
        return (
            self.provider in ("*", call.provider)
            and self.operation in ("*", call.operation)
            and self.model in ("*", call.model)
        )


@dataclass(frozen=True, slots=True)
class Exceeded:
    """A quota that has no room for a call."""

    daily: bool
    metric: str
    """`requests` or `tokens`."""
    limit: int
    retry_after: float
    """Seconds until there is room."""


class Quotas:
    """Counts calls in windows that begin with the minute and with the day."""

    def __init__(self) -> None:
        self.quotas: list[Quota] = []
        self._used: dict[tuple[str, str, str, float, float], int] = defaultdict(int)

    def take(self, call: Call, now: float) -> Exceeded | None:
        """Counts a call; None when it fits. A call that does not fit is not counted."""
        spent: list[tuple[tuple[str, str, str, float, float], int]] = []
        for quota in self.quotas:
            if not quota.covers(call):
                continue
            for metric, window, limit, amount in (
                ("requests", DAY, quota.requests_per_day, 1),
                ("requests", MINUTE, quota.requests_per_minute, 1),
                ("tokens", MINUTE, quota.tokens_per_minute, call.input_tokens),
            ):
                begins = now - now % window
                key = (call.key, f"{call.provider}/{call.model}", metric, window, begins)
                if limit and self._used[key] + amount > limit:
                    return Exceeded(window == DAY, metric, limit, begins + window - now)
                spent.append((key, amount))
        for key, amount in spent:
            self._used[key] += amount
        return None

    def left(self, call: Call, now: float) -> dict[str, tuple[int, int]]:
        """Limit and what is left of it in the running minute, by metric, where there is a limit."""
        found: dict[str, tuple[int, int]] = {}
        begins = now - now % MINUTE
        for quota in self.quotas:
            if not quota.covers(call):
                continue
            for metric, limit in (
                ("requests", quota.requests_per_minute),
                ("tokens", quota.tokens_per_minute),
            ):
                key = (call.key, f"{call.provider}/{call.model}", metric, MINUTE, begins)
                if limit:
                    found[metric] = (limit, max(0, limit - self._used[key]))
        return found

    def reset(self) -> None:
        """Forgets quotas and counts."""
        self.quotas.clear()
        self._used.clear()
