"""Opens the embedders that CITEMESH_EMBEDDING_SPACES names."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from meshkit import weights
from meshkit.logging import logger
from meshkit.providers.catalogue import Operation
from meshkit.providers.settings import Providers
from meshkit.resilience.rate import Lane
from meshkit.weights.threads import ModelThreads
from services.embedding.embedder import Embedder, Task
from services.embedding.local import PROVIDER, LocalEmbedder, identity
from services.embedding.spaces import SpaceName, parse_name

log = logger(__name__)

SHARES = {Lane.QUESTION: 0.3, Lane.BULK: 0.7}
"""The two lanes are two processes with one account: neither can use up the other's part."""


async def open_embedders(
    names: Sequence[str],
    threads: ModelThreads,
    providers: Providers,
    lane: Lane = Lane.QUESTION,
) -> Mapping[str, Embedder]:
    """One embedder for each space, in order, warm.

    Args:
        names: Spaces.
        threads: Where local weights run.
        providers: Keys, addresses and breakers of this process.
        lane: What this process's calls are for.

    Raises:
        Unsupported: PROVIDER_UNSUPPORTED: a provider this version cannot call.
        NotFound, Precondition: the model does not exist or has other dimensions.
        Unavailable: local weights cannot be had.
        SettingsInvalid: a provider's key is missing.
    """
    spaces = [parse_name(name) for name in names]
    opened: dict[str, Embedder] = {}
    # What is wrong shows before anything is fetched.
    for space in spaces:
        if space.provider == PROVIDER:
            identity(space)
        else:
            opened[str(space)] = open_api(space, providers, lane)
    local = [space for space in spaces if space.provider == PROVIDER]
    ready = await asyncio.to_thread(
        weights.ensure,
        [space.model for space in local],
        report=lambda line: log.info("weights", doing=line),
    )
    for space in local:
        embedder = await asyncio.to_thread(LocalEmbedder, space, ready[space.model], threads)
        # The first run of a graph allocates; no question should pay for that.
        await embedder.embed(["warm"], Task.QUERY)
        opened[str(space)] = embedder
    return {str(space): opened[str(space)] for space in spaces}


def open_api(space: SpaceName, providers: Providers, lane: Lane = Lane.QUESTION) -> Embedder:
    """The embedder of a space of an API; nothing is called yet.

    Raises:
        Unsupported, NotFound, Precondition, SettingsInvalid: see `open_embedders`.
    """
    model = providers.catalogue.find(space.provider, Operation.EMBED, space.model)
    access = providers.access(space.provider)
    gate = providers.gate(model, lane, SHARES[lane])
    if space.provider == "gemini":
        from meshkit.providers import gemini
        from services.embedding.gemini import GeminiEmbedder

        return GeminiEmbedder(space, model, gemini.Client(access), gate)
    from meshkit.providers import cohere
    from services.embedding.cohere import CohereEmbedder

    return CohereEmbedder(space, model, cohere.open_client(access), gate)
