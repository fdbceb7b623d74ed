"""What a request to a provider is, before anything is done with it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Call:
    """One request, whichever provider's."""

    provider: str
    """`gemini`, `cohere` or `anthropic`."""
    operation: str
    """`embed`, `rerank` or `generate`."""
    model: str
    key: str
    input_tokens: int
    streams: bool = False


def tokens(text: str) -> int:
    """Tokens of a text: one for four characters, at least one."""
    return max(1, math.ceil(len(text) / 4))
