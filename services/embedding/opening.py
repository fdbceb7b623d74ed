"""Opens the embedders that CITEMESH_EMBEDDING_SPACES names."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from meshkit import weights
from meshkit.errors import Unsupported
from meshkit.logging import logger
from meshkit.weights.threads import ModelThreads
from services.embedding.embedder import Embedder, Task
from services.embedding.local import PROVIDER, LocalEmbedder, identity
from services.embedding.spaces import SpaceName, parse_name

log = logger(__name__)


async def open_embedders(names: Sequence[str], threads: ModelThreads) -> Mapping[str, Embedder]:
    """One embedder for each space, in order, warm.

    Raises:
        Unsupported: PROVIDER_UNSUPPORTED: a provider this version cannot call.
        NotFound, Precondition: the local model does not exist or has other dimensions.
        Unavailable: its weights cannot be had.
    """
    spaces = [parse_name(name) for name in names]
    for space in spaces:
        _check(space)
    ready = await asyncio.to_thread(
        weights.ensure,
        [space.model for space in spaces],
        report=lambda line: log.info("weights", doing=line),
    )
    opened: dict[str, Embedder] = {}
    for space in spaces:
        embedder = await asyncio.to_thread(LocalEmbedder, space, ready[space.model], threads)
        # The first run of a graph allocates; no question should pay for that.
        await embedder.embed(["warm"], Task.QUERY)
        opened[str(space)] = embedder
    return opened


def _check(space: SpaceName) -> None:
    """Refuses what would fail later, before anything is fetched."""
    if space.provider != PROVIDER:
        raise Unsupported(
            "PROVIDER_UNSUPPORTED",
            f"CITEMESH_EMBEDDING_SPACES names {space}, but this version embeds only with "
            f"provider {PROVIDER}.",
        )
    identity(space)
