"""`python -m services.retrieval`."""

from __future__ import annotations

import asyncio
import os
import socket
from datetime import timedelta

from citemesh.embedding import v1 as embedding_v1
from citemesh.rerank import v1 as rerank_v1
from citemesh.retrieval import v1
from meshkit import language
from meshkit.database.pgvector import DatabaseUnfit, check_installed
from meshkit.logging import logger
from meshkit.process import Process, run
from meshkit.settings import SettingsInvalid
from services.retrieval import garbage
from services.retrieval.filling.filler import Filler, FillingPolicy
from services.retrieval.filling.lives import SpaceLives
from services.retrieval.filling.registry import EmbeddingSpaces
from services.retrieval.filling.work import SpaceWork
from services.retrieval.lexical.opening import open_lexical
from services.retrieval.outbox import LexicalProjection
from services.retrieval.rebuild import Rebuilds
from services.retrieval.reconcile import Reconciler
from services.retrieval.search import Searcher
from services.retrieval.servicer import RetrievalServicer
from services.retrieval.settings import RetrievalSettings
from services.retrieval.spaces import SpaceTables
from services.retrieval.upstream import EmbeddingService, RerankService
from services.retrieval.versions import Corpus

log = logger(__name__)

KEEP_SECONDS = 5.0
"""How often it is looked whether the lexical index is there."""
FIRST_LOOK_SECONDS = 0.2
"""How often the embedding service is asked for its spaces until it has answered."""


async def start(process: Process[RetrievalSettings]) -> None:
    """Opens the lexical index, rebuilding it if it does not fit, and serves."""
    settings = process.settings
    embedding = embedding_v1.EmbeddingServiceAsyncStub(process.channel("embedding"))
    rerank = rerank_v1.RerankServiceAsyncStub(process.channel("rerank"))
    database = await process.database("retrieval")
    try:
        async with database.connection() as connection:
            await check_installed(connection)
    except DatabaseUnfit as error:
        raise SettingsInvalid(str(error)) from error
    lexical = await open_lexical(settings, database)
    process.stack.push_async_callback(lexical.home.close)
    projection = LexicalProjection(database, lexical.index)
    process.stack.push_async_callback(projection.close)
    rebuilds = Rebuilds(lexical.home, database, projection)
    process.stack.push_async_callback(rebuilds.close)
    log.info("lexical back end", name=lexical.name)
    reconciler = Reconciler(database, projection)
    spaces = SpaceTables(database)
    await asyncio.to_thread(language.warm)
    outbox_work, garbage_work, space_work = asyncio.Event(), asyncio.Event(), asyncio.Event()
    corpus = Corpus(database, spaces, projection, (outbox_work, garbage_work, space_work))
    bulk = embedding_v1.EmbeddingServiceAsyncStub(process.channel("embedding_bulk"))
    service = EmbeddingSpaces(bulk, embedding, process.signer())
    lives = SpaceLives(database, spaces, service, space_work, settings.standby_unasked_chunks)
    filler = Filler(
        SpaceWork(
            database,
            f"{socket.gethostname()}/{os.getpid()}",
            timedelta(seconds=settings.space_lease_seconds),
        ),
        service,
        FillingPolicy(
            batch=settings.space_batch,
            parallel=settings.space_parallel,
            lease_seconds=settings.space_lease_seconds,
            poll_seconds=settings.space_poll_seconds,
        ),
    )
    searcher = Searcher(
        settings, database, spaces, projection, EmbeddingService(embedding), RerankService(rerank)
    )
    process.background("outbox", projection.run(outbox_work, settings.outbox_poll_seconds))

    async def tell(working: bool) -> None:
        await process.part(lexical.name, working)

    process.background("lexical index", rebuilds.keep(KEEP_SECONDS, tell))
    process.background(
        "garbage",
        garbage.run(
            database,
            garbage_work,
            batch=settings.garbage_batch,
            every_seconds=settings.garbage_poll_seconds,
            remember_requests=timedelta(days=settings.request_memory_days),
        ),
    )
    process.background("spaces", lives.keep(FIRST_LOOK_SECONDS, settings.space_refresh_seconds))
    process.background("filling spaces", filler.run(space_work))
    process.background("reconciler", reconciler.run(settings.reconcile_hours * 3600))
    process.serve(
        v1.add_RetrievalServiceServicer_to_server,
        RetrievalServicer(database, searcher, corpus, rebuilds, reconciler, lives),
    )


if __name__ == "__main__":
    run(RetrievalSettings, start)
