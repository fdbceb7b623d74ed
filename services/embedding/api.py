"""What the spaces of providers' APIs have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from meshkit import deadline
from meshkit.errors import Internal, Precondition
from meshkit.providers.attempt import until
from meshkit.providers.catalogue import Model, estimated_tokens
from meshkit.providers.errors import MalformedResponse, Target
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


def limits(model: Model) -> Limits:
    """What one call may carry."""
    return Limits(model.texts_per_call, model.context_tokens, model.tokens_per_minute)


def estimate_micro_usd(model: Model, texts: Sequence[str]) -> int:
    """At most what embedding these texts costs."""
    return model.cost_micro_usd(input_tokens=estimated_tokens(texts))


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
