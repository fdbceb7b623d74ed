"""The embedder that needs no key and no network: weights run in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial

import numpy as np

from meshkit.errors import Precondition
from meshkit.weights import ModelSpec, Weights, find
from meshkit.weights.onnx import Floats, OnnxModel
from meshkit.weights.threads import ModelThreads
from services.embedding.embedder import Embedded, Task
from services.embedding.spaces import Identity, Limits, SpaceName
from services.embedding.vectors import Vectors

PROVIDER = "local"
MAX_TEXTS = 256


def fingerprint(spec: ModelSpec) -> str:
    """What the numbers of a model depend on, in 16 hex digits."""
    parts = [f"{file.name}={file.sha256}" for file in spec.files]
    parts += [spec.pooling, spec.query_prefix, str(spec.max_tokens), "l2"]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def identity(name: SpaceName) -> Identity:
    """The space that the local weights of this name embed in.

    Raises:
        NotFound: WEIGHTS_UNKNOWN: there are no weights of that name.
        Precondition: SPACE_MISMATCH: they are no embedder, or of another length.
    """
    spec = find(name.model)
    if spec.use != "embed" or spec.dimensions != name.dimensions:
        has = f"{spec.dimensions} dimensions" if spec.use == "embed" else "no vectors"
        raise Precondition(
            "SPACE_MISMATCH",
            f"Space {name} asks for {name.dimensions} dimensions, "
            f"but the local model {spec.name} gives {has}.",
        )
    return Identity(str(name), PROVIDER, name.model, spec.dimensions, True, fingerprint(spec))


class LocalEmbedder:
    """See `Embedder`. One text at a time on each thread, so a vector depends on its text alone.

    Args:
        name: The space.
        weights: The model's files.
        threads: Where it runs; closed by whoever opened them.
        worth_caching: See `Embedder`. A query takes a few milliseconds here, about as
            long as asking Postgres.
    """

    micro_usd_per_million_tokens = 0

    def __init__(
        self,
        name: SpaceName,
        weights: Weights,
        threads: ModelThreads,
        *,
        worth_caching: bool = False,
    ) -> None:
        self.identity = identity(name)
        self.limits = Limits(MAX_TEXTS, weights.spec.max_tokens)
        self.worth_caching = worth_caching
        self._model = OnnxModel(weights)
        self._pool = weights.spec.pooling
        self._prefix = weights.spec.query_prefix
        self._threads = threads

    def estimate_micro_usd(self, _texts: Sequence[str], /) -> int:
        """Nothing: the machine is already paid for."""
        return 0

    async def embed(self, texts: Sequence[str], task: Task) -> Embedded:
        """See `Embedder.embed`; stops between two texts when cancelled."""
        prefix = self._prefix if task is Task.QUERY else ""
        found = await self._threads.each(partial(self._embed_one, prefix), texts)
        rows = [row for row in found if row is not None]
        return Embedded(np.stack([vector for vector, _ in rows]), sum(read for _, read in rows))

    def _embed_one(self, prefix: str, text: str) -> tuple[Vectors, int]:
        output, read = self._model.run(self._model.tokens(prefix + text))
        return normalised(pooled(output, self._pool)), read

    async def close(self) -> None:
        """Nothing to give back: the threads belong to the process."""


def pooled(token_vectors: Floats, pooling: str) -> Vectors:
    """One vector of a text's token vectors `[tokens, width]`: the first one, or the mean."""
    if pooling == "cls":
        first: Vectors = token_vectors[0]
        return first
    mean: Vectors = token_vectors.mean(axis=0, dtype=np.float32)
    return mean


def normalised(vector: Vectors) -> Vectors:
    """The vector at Euclidean length 1; zeros stay zeros, which `checked` refuses."""
    # In double precision: squares of tiny single-precision values vanish.
    wide = vector.astype(np.float64)
    length = float(np.linalg.norm(wide))
    return (wide / length).astype(np.float32) if length > 0 else vector
