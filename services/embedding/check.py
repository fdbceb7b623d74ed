"""`python -m services.embedding.check`: one text embedded by each API that is set or has a key."""

from __future__ import annotations

from meshkit import settings
from meshkit.providers.catalogue import Operation
from meshkit.providers.check import Finding, Tried, main, named, tried
from meshkit.providers.settings import Providers
from services.embedding.embedder import Task
from services.embedding.local import PROVIDER
from services.embedding.opening import open_api
from services.embedding.settings import EmbeddingSettings
from services.embedding.spaces import SpaceName, parse_name

TEXT = "Does the embedding model answer?"


async def check(providers: Providers) -> list[Finding]:
    """Tries every space of an API."""
    spaces = [parse_name(name) for name in settings.load(EmbeddingSettings).spaces]
    found = [space for space in spaces if space.provider != PROVIDER]
    configured = [f"{space.provider}/{space.model}" for space in found]
    for name in named(configured, Operation.EMBED, providers)[len(found) :]:
        provider, _, model = name.partition("/")
        length = providers.catalogue.find(provider, Operation.EMBED, model).dimensions[0]
        found.append(SpaceName(provider, model, length))
    return [await _try(space, providers) for space in found]


async def _try(space: SpaceName, providers: Providers) -> Finding:
    async def call() -> Tried:
        embedder = open_api(space, providers)
        try:
            embedded = await embedder.embed([TEXT], Task.QUERY)
        finally:
            await embedder.close()
        length = embedded.vectors.shape[1]
        return Tried(f"{length} dimensions", length, embedded.cost_micro_usd)

    return await tried(f"{space.provider}/{space.model}", "embedding", call)


if __name__ == "__main__":
    main(check)
