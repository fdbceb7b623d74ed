"""`python -m services.embedding`: the query lane, or the bulk lane by CITEMESH_EMBEDDING_LANE."""

from __future__ import annotations

import os
import time
from datetime import timedelta

from citemesh.embedding import v1
from citemesh.operations import v1 as operations_v1
from meshkit.errors import MeshError, Precondition
from meshkit.process import Process, run
from meshkit.providers import settings as provider_settings
from meshkit.providers.servicer import OperationsServicer
from meshkit.resilience import rate as provider_rate
from meshkit.settings import SettingsInvalid
from meshkit.weights.threads import ModelThreads
from services.embedding.directory import SpaceDirectory
from services.embedding.embedding import Embedding
from services.embedding.opening import open_embedders
from services.embedding.query_cache import QueryCache
from services.embedding.registry import SpaceRegistry
from services.embedding.servicer import EmbeddingServicer
from services.embedding.settings import EmbeddingSettings, Lane
from services.embedding.stored_vectors import StoredVectors


async def start(process: Process[EmbeddingSettings]) -> None:
    """Opens models, then the registry, and serves."""
    settings = process.settings
    threads = ModelThreads(settings.workers, "embed")
    process.stack.callback(threads.close)
    # Sentences for whoever starts the mesh, without a stack trace, and no restarts.
    work = provider_rate.Lane.QUESTION if settings.lane is Lane.QUERY else provider_rate.Lane.BULK
    providers = provider_settings.load()
    try:
        embedders = await open_embedders(settings.spaces, threads, providers, work)
    except MeshError as error:
        raise SettingsInvalid(error.detail) from error
    for embedder in embedders.values():
        process.stack.push_async_callback(embedder.close)
    database = await process.database("embedding", "usage")
    directory = SpaceDirectory(SpaceRegistry(database), embedders)
    try:
        await directory.open()
    except Precondition as error:
        raise SettingsInvalid(error.detail) from error
    stored = StoredVectors(database, timedelta(days=settings.stored_vector_days))
    entries = settings.query_cache_entries if settings.lane is Lane.QUERY else 0
    memory = QueryCache(entries, settings.query_cache_seconds, time.monotonic)
    embedding = Embedding(directory, await process.budget(database), memory, stored)
    process.background("following spaces", directory.follow(settings.space_refresh_seconds))
    process.background("storing vectors", stored.keep_writing())
    if settings.lane is Lane.QUERY:
        process.background("sweeping vectors", stored.keep_sweeping())
    process.serve(
        v1.add_EmbeddingServiceServicer_to_server, EmbeddingServicer(embedding, directory)
    )
    process.serve(
        operations_v1.add_OperationsServiceServicer_to_server,
        OperationsServicer(providers.breakers),
    )


if __name__ == "__main__":
    bulk = os.environ.get("CITEMESH_EMBEDDING_LANE") == Lane.BULK
    run(EmbeddingSettings, start, "embedding_bulk" if bulk else "embedding")
