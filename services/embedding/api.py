"""What the spaces of providers' APIs have in common."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from meshkit import deadline
from meshkit.errors import Internal, Precondition
from meshkit.providers.attempt import Classify, until, within
from meshkit.providers.catalogue import Model, estimated_tokens
from meshkit.providers.errors import MalformedResponse, Target
from meshkit.providers.gate import Gate
from services.embedding.embedder import Embedded, Task
from services.embedding.local import normalised
from services.embedding.spaces import Identity, Limits, SpaceName
from services.embedding.vectors import Vectors, checked

LONGEST_CALL_SECONDS = 60.0
"""A call for a caller without a deadline."""


def identity(name: SpaceName, model: Model, *made_by: str) -> Identity:
    """The space that a provider's model embeds in.

    Args:
        name: As configured.
        model: The model.
        made_by: What else its numbers depend on, such as the names of the tasks.

    Raises:
        Precondition: SPACE_MISMATCH: the model gives no vectors of that length.
    """
    if name.dimensions not in model.dimensions:
        offered = ", ".join(str(length) for length in model.dimensions)
        raise Precondition(
            "SPACE_MISMATCH",
            f"Space {name} asks for {name.dimensions} dimensions, but the model gives {offered}.",
        )
    parts = [model.name, str(name.dimensions), "l2", *made_by]
    version = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return Identity(str(name), name.provider, name.model, name.dimensions, True, version)


def call_deadline() -> tuple[float, float]:
    """Until when a call for the request being served may last, and its seconds."""
    seconds = deadline.for_call(LONGEST_CALL_SECONDS) or LONGEST_CALL_SECONDS
    return until(seconds), seconds


def unit_vectors(
    values: Sequence[Sequence[float]], texts: int, space: Identity, target: Target
) -> Vectors:
    """Vectors of length 1, `[texts, dimensions]`; some models cut theirs short and leave it so.

    Raises:
        MalformedResponse: VECTOR_INVALID: not as many or not as long as asked for, or zeros.
    """
    try:
        rows = [normalised(np.asarray(row, np.float32)) for row in values]
        found: Vectors = np.stack(rows) if rows else np.empty((0, 0), np.float32)
        return checked(found, texts=texts, dimensions=space.dimensions, normalized=True)
    except (Internal, ValueError, TypeError):
        raise MalformedResponse(target, code="VECTOR_INVALID") from None


@dataclass(frozen=True, slots=True)
class Answered:
    """What a provider answered."""

    values: Sequence[Sequence[float]]
    """Vectors as they came: perhaps too few, too short, not of length 1."""
    input_tokens: int = 0
    """As it counted them; 0 when it did not."""


class ApiEmbedder(ABC):
    """An `Embedder` over a provider's SDK; what differs is `_call` and `close`.

    Args:
        name: The space, as configured.
        model: The model as the catalogue has it.
        tasks: What the provider calls them.
        classify: What the SDK's exceptions mean.
        gate: Where its calls go through.
    """

    worth_caching = True

    def __init__(
        self,
        name: SpaceName,
        model: Model,
        tasks: Mapping[Task, str],
        classify: Classify,
        gate: Gate,
    ) -> None:
        self.identity = identity(name, model, *tasks.values())
        self.limits = Limits(model.texts_per_call, model.context_tokens, model.tokens_per_minute)
        self.micro_usd_per_million_tokens = model.cost_micro_usd(input_tokens=1_000_000)
        self._model = model
        self._classify = classify
        self._gate = gate

    def estimate_micro_usd(self, texts: Sequence[str]) -> int:
        """See `Embedder`."""
        return self._model.cost_micro_usd(input_tokens=estimated_tokens(texts))

    async def embed(self, texts: Sequence[str], task: Task) -> Embedded:
        """See `Embedder.embed`."""
        ends, _ = call_deadline()
        return await self._gate.retried(lambda: self._embed(texts, task), ends=ends)

    async def _embed(self, texts: Sequence[str], task: Task) -> Embedded:
        ends, seconds = call_deadline()
        tokens, target = estimated_tokens(texts), self._gate.target
        async with self._gate.attempt(self._classify, tokens=tokens, seconds=seconds) as call:
            async with within(ends, target):
                answered = await self._call(texts, task, seconds)
            # Inside the attempt: vectors that do not fit are the provider's failure.
            vectors = unit_vectors(answered.values, len(texts), self.identity, target)
            tokens = answered.input_tokens or tokens
            call.used(input_tokens=tokens)
        cost = self._model.cost_micro_usd(input_tokens=tokens)
        return Embedded(vectors, tokens, cost, estimated=not answered.input_tokens)

    @abstractmethod
    async def _call(self, texts: Sequence[str], task: Task, seconds: float) -> Answered:
        """One call of the SDK."""

    @abstractmethod
    async def close(self) -> None:
        """Closes the connections."""
