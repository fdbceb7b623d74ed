"""How fast answers come: a delay before the first byte and a rate of tokens after it. No I/O."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """Distributions of one operation; all zero is as fast as the machine."""

    first_byte_ms: float = 0.0
    """Median time before the answer begins."""
    spread: float = 0.25
    """Standard deviation of its logarithm: .25 makes p95 half as long again as the median."""
    tokens_per_second: float = 0.0
    """Of streamed text; 0 sends it at once."""
    frame_tokens: int = 0
    """Tokens in one piece of a stream; 0 sends word by word."""
    answer_tokens: int = 0
    """Length that every answer is brought to; 0 leaves it as short as it is."""

    def delay(self, chance: random.Random) -> float:
        """Seconds before the first byte of one answer."""
        if not self.first_byte_ms:
            return 0.0
        return self.first_byte_ms / 1000 * chance.lognormvariate(0.0, self.spread)

    def gap(self, chance: random.Random) -> float:
        """Seconds before the next piece of a stream."""
        if not self.tokens_per_second:
            return 0.0
        tokens = max(1, self.frame_tokens)
        return tokens * chance.lognormvariate(0.0, self.spread) / self.tokens_per_second


INSTANT = {"embed": Pace(), "rerank": Pace(), "generate": Pace()}
LIFELIKE = {
    "embed": Pace(120),
    "rerank": Pace(110),
    "generate": Pace(450, tokens_per_second=120),
}
"""Medians as the providers' status pages and users report them; for trying, not for measuring."""
