"""Vectors: the check that none is unusable, and their form at rest."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from meshkit.errors import Internal

Vectors: TypeAlias = NDArray[np.float32]
"""Float32; one vector `[dimensions]` or several `[texts, dimensions]`."""

LENGTH_TOLERANCE = 1e-3


def checked(vectors: Vectors, *, texts: int, dimensions: int, normalized: bool) -> Vectors:
    """The vectors, if each is one the space can hold.

    Args:
        vectors: What a model returned.
        texts: How many were asked for.
        dimensions: Length each must have.
        normalized: Whether each must have Euclidean length 1.

    Raises:
        Internal: VECTOR_INVALID: a wrong shape, NaN or infinity, zeros, or a wrong length.
    """
    if vectors.shape != (texts, dimensions):
        raise _invalid(f"shape {vectors.shape} where {(texts, dimensions)} was expected")
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(lengths).all():
        raise _invalid("a vector with NaN or infinity")
    if (lengths < 1e-6).any():
        raise _invalid("a vector of zeros")
    if normalized and (np.abs(lengths - 1.0) > LENGTH_TOLERANCE).any():
        raise _invalid("a vector whose Euclidean length is not 1")
    return vectors


def _invalid(what: str) -> Internal:
    return Internal("VECTOR_INVALID", f"The model returned {what}; it was not used.")


def to_bytes(vector: Vectors) -> bytes:
    """A vector as little-endian float32, the form it is stored in."""
    return vector.astype("<f4", copy=False).tobytes()


def from_bytes(data: bytes) -> Vectors:
    """The vector that `to_bytes` stored."""
    return np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)
