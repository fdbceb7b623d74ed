"""Opens the rerankers that the settings name."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from meshkit import weights
from meshkit.errors import Unsupported
from meshkit.logging import logger
from meshkit.providers.catalogue import Operation
from meshkit.providers.settings import Providers
from meshkit.weights.threads import ModelThreads
from services.rerank.local import LocalReranker
from services.rerank.reranker import Reranker

log = logger(__name__)


async def open_rerankers(
    names: Sequence[str],
    local_model: str,
    threads: ModelThreads,
    providers: Providers,
    *,
    window_tokens: int,
) -> list[Reranker]:
    """One reranker for each name, in order, ready.

    Args:
        names: `local`, or `provider` or `provider/model`.
        local_model: Weights of `local`.
        threads: Where local weights run.
        providers: Keys, addresses and breakers of this process.
        window_tokens: See `LocalReranker`.

    Raises:
        Unsupported, NotFound: no such provider, model or weights.
        Unavailable: the weights cannot be had.
        SettingsInvalid: a provider's key is missing.
    """
    opened: list[Reranker] = []
    for name in names:
        if name == LocalReranker.provider:
            opened.append(await _open_local(local_model, threads, window_tokens=window_tokens))
        else:
            opened.append(open_api(name, providers))
    return opened


def open_api(name: str, providers: Providers) -> Reranker:
    """The reranker of an API, `provider` or `provider/model`; Cohere's is the one there is."""
    from meshkit.providers import cohere
    from services.rerank.cohere import CohereReranker

    provider, _, model = name.partition("/")
    listed = providers.catalogue.find(provider, Operation.RERANK, model)
    client = cohere.open_client(providers.access(provider))
    return CohereReranker(listed, client, providers.gate(listed))


async def _open_local(model: str, threads: ModelThreads, *, window_tokens: int) -> Reranker:
    """The local cross-encoder, warm.

    Raises:
        NotFound: WEIGHTS_UNKNOWN: no weights of that name.
        Unsupported: MODEL_UNSUITABLE: weights that score no pairs.
        Unavailable: the weights cannot be had.
    """
    if weights.find(model).use != "rerank":
        raise Unsupported(
            "MODEL_UNSUITABLE", f"CITEMESH_RERANK_MODEL names {model}, which scores no passages."
        )
    ready = await asyncio.to_thread(
        weights.ensure, [model], report=lambda line: log.info("weights", doing=line)
    )
    reranker = await asyncio.to_thread(
        LocalReranker, ready[model], threads, window_tokens=window_tokens
    )
    # The first run of a graph allocates; no question should pay for that.
    await reranker.score("warm", ["warm"], whole=False, until=None)
    return reranker
