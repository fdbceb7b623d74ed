"""Everything the simulator remembers: faults, quotas, pace, clock and what was called."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from loadtest.simulator.call import Call
from loadtest.simulator.faults import Faults
from loadtest.simulator.pace import INSTANT, Pace
from loadtest.simulator.quotas import Quotas


@dataclass(slots=True)
class Record:
    """One call and how it ended."""

    call: Call
    number: int
    outcome: str = "open"
    """`answered`, `refused`, `abandoned` by the client, `broken` by a fault, or `open`."""
    fault: str = ""
    connection: str = ""
    """The client's end of the connection it came by."""
    at: float = 0.0
    """Seconds of the simulator's clock."""

    def end(self, outcome: str) -> None:
        """Notes how it ended; the first word counts."""
        if self.outcome == "open":
            self.outcome = outcome


@dataclass(slots=True)
class World:
    """The state of one simulator."""

    seed: int = 0
    pace: dict[str, Pace] = field(default_factory=lambda: dict(INSTANT))
    ahead: float = 0.0
    """Seconds its clock is ahead: a day's quota is full again without waiting a day."""
    faults: Faults = field(init=False)
    quotas: Quotas = field(default_factory=Quotas)
    tls: dict[str, Any] = field(default_factory=dict)
    """HTTPS ports by provider, and the file of the authority to trust."""
    hang_up: Callable[[str], None] = field(default=lambda _provider: None)
    """Ends the HTTPS connections of a provider, or of all (`*`)."""
    records: list[Record] = field(default_factory=list)
    cached_prefixes: set[str] = field(default_factory=set)
    """Prompts that a provider would have in its cache."""
    chance: random.Random = field(init=False)
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.faults = Faults(self.seed)
        self.chance = random.Random(self.seed)

    def now(self) -> float:
        """Seconds since 1970 by the simulator's clock."""
        return time.time() + self.ahead

    def begin(self, call: Call, connection: str = "") -> Record:
        """Notes a call that came in."""
        record = Record(call, next(self._numbers), connection=connection, at=self.now())
        self.records.append(record)
        return record

    def counts(self) -> dict[str, dict[str, int]]:
        """Calls by `provider/operation` and by how they ended."""
        found: dict[str, Counter[str]] = {}
        for record in self.records:
            name = f"{record.call.provider}/{record.call.operation}"
            tally = found.setdefault(name, Counter())
            tally["calls"] += 1
            tally[record.outcome] += 1
        return {name: dict(tally) for name, tally in sorted(found.items())}

    def reset(self) -> None:
        """As it was at the start, but for the pace."""
        self.faults.remove()
        self.quotas.reset()
        self.records.clear()
        self.cached_prefixes.clear()
        self.ahead = 0.0
        self.chance = random.Random(self.seed)
