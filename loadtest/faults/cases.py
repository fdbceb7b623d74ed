"""Which faults are tried where. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from loadtest.simulator.faults import FaultKind

ALL = "*"
EARLY, MIDDLE = 4, 20
"""Pieces of text before a stream breaks: in the first sentence of the answer, in the second."""
OF_EMBEDDINGS = {FaultKind.WRONG_DIMENSION, FaultKind.EMPTY_VECTOR, FaultKind.ZERO_VECTOR}
DRIP_SECONDS = 0.4
RETRY_AFTER = 30.0


@dataclass(frozen=True, slots=True)
class Case:
    """One fault in one place."""

    kind: FaultKind
    provider: str
    """`*` is every provider at once."""
    operation: str
    """`embed`, `rerank`, `generate`, or `*`."""
    after: int = 0
    retry_after: float | None = None

    @property
    def place(self) -> str:
        """Where it is, for a table."""
        return f"{self.operation}, in mid-stream" if self.after else self.operation

    @property
    def name(self) -> str:
        """What it is, for a table."""
        return f"{self.kind}, Retry-After" if self.retry_after is not None else str(self.kind)

    def fault(self) -> dict[str, Any]:
        """For `RunningSimulator.fault`."""
        values: dict[str, Any] = {
            "kind": str(self.kind),
            "provider": self.provider,
            # A handshake is for whatever may be asked behind it.
            "operation": ALL if self.kind is FaultKind.TLS else self.operation,
            "after": self.after,
        }
        if self.retry_after is not None:
            values["retry_after"] = self.retry_after
        if self.kind is FaultKind.SLOW_DRIP:
            values["seconds"] = DRIP_SECONDS
        return values


@dataclass(frozen=True, slots=True)
class Leg:
    """A mesh with an order of providers, and what is tried on it."""

    name: str
    space: str
    generation: str
    """The first one is whose faults are tried."""
    operations: tuple[str, ...]
    """Of the provider `name`."""
    beside: bool = False
    """Whether it is measured how the others fare beside a fault."""
    kinds: tuple[FaultKind, ...] = tuple(FaultKind)
    middle: tuple[FaultKind, ...] = field(default=tuple(FaultKind))

    @property
    def quotes(self) -> bool:
        """Whether the local answerer is the last resort."""
        return self.generation.endswith("local")

    def cases(self) -> Iterator[Case]:
        """Every fault in every place of the leg, at last all providers dead at once."""
        for operation in self.operations:
            for kind in self.kinds:
                if kind in OF_EMBEDDINGS and operation != "embed":
                    continue
                yield Case(kind, self.name, operation)
                if kind is FaultKind.RATE_LIMITED:
                    yield Case(kind, self.name, operation, retry_after=RETRY_AFTER)
        if "generate" in self.operations:
            yield Case(FaultKind.RESET, self.name, "generate", after=EARLY)
            for kind in self.middle:
                # A handshake is over before a stream begins.
                if kind not in OF_EMBEDDINGS and kind is not FaultKind.TLS:
                    yield Case(kind, self.name, "generate", after=MIDDLE)
        for kind in (FaultKind.SERVER_ERROR, FaultKind.HANG):
            if kind in self.kinds:
                yield Case(kind, ALL, ALL)


GEMINI_SPACE = "gemini/gemini-embedding-001@768"
LEGS = (
    Leg("gemini", GEMINI_SPACE, "gemini,anthropic,cohere,local", ("embed", "generate")),
    Leg(
        "cohere",
        "cohere/embed-v5.0-fast@512",
        "cohere,gemini,anthropic,local",
        ("embed", "rerank", "generate"),
    ),
    # Without the local answerer: here all providers dead must be a clear refusal.
    Leg("anthropic", GEMINI_SPACE, "anthropic,gemini,cohere", ("generate",), beside=True),
)
SHORT = (
    Leg(
        "gemini",
        GEMINI_SPACE,
        "gemini,anthropic,cohere,local",
        ("embed", "generate"),
        kinds=(FaultKind.SERVER_ERROR, FaultKind.KEY_LEAKED, FaultKind.RESET, FaultKind.TLS),
        middle=(FaultKind.RESET, FaultKind.TRUNCATED, FaultKind.MALFORMED),
    ),
)
"""A handful of them, for every run of the tests."""
