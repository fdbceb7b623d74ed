"""Opens the reranker that the settings name."""

from __future__ import annotations

import asyncio

from meshkit import weights
from meshkit.errors import Unsupported
from meshkit.logging import logger
from meshkit.weights.threads import ModelThreads
from services.rerank.local import LocalReranker
from services.rerank.reranker import Reranker

log = logger(__name__)


async def open_reranker(model: str, threads: ModelThreads, *, window_tokens: int) -> Reranker:
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
