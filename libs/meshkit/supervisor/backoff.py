"""When to start a process again that died: at once, then slower and slower."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S = 0.5
LONGEST_S = 30.0
STABLE_S = 60.0
"""A process that lived this long is forgiven what came before."""


@dataclass(slots=True)
class Backoff:
    """Counts deaths in a row; has no clock of its own."""

    deaths: int = 0

    def next_delay(self, lived: float) -> float:
        """Seconds to wait before the next start of a process that lived `lived` seconds.

        0 after the first death, then 0.5, 1, 2, ... up to 30.
        """
        if lived >= STABLE_S:
            self.deaths = 0
        self.deaths += 1
        if self.deaths == 1:
            return 0.0
        return min(float(FIRST_S * 2 ** (self.deaths - 2)), LONGEST_S)
