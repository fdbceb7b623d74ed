"""`python -m services.rerank`: scores passages until SIGTERM."""

from __future__ import annotations

from citemesh.operations import v1 as operations_v1
from citemesh.rerank import v1
from meshkit.errors import MeshError
from meshkit.process import Process, run
from meshkit.providers import settings as provider_settings
from meshkit.providers.servicer import OperationsServicer
from meshkit.settings import SettingsInvalid
from meshkit.weights.threads import ModelThreads
from services.rerank.opening import open_rerankers
from services.rerank.scoring import Scoring
from services.rerank.servicer import RerankServicer
from services.rerank.settings import RerankSettings


async def start(process: Process[RerankSettings]) -> None:
    """Opens the models and serves. The database is only for schema `usage`."""
    settings = process.settings
    threads = ModelThreads(settings.workers, "rerank")
    process.stack.callback(threads.close)
    providers = provider_settings.load()
    try:
        rerankers = await open_rerankers(
            settings.providers,
            settings.model,
            threads,
            providers,
            window_tokens=settings.window_tokens,
        )
    except MeshError as error:
        # A sentence for whoever starts the mesh, without a stack trace, and no restarts.
        raise SettingsInvalid(error.detail) from error
    database = await process.database("usage")
    scoring = Scoring(rerankers, await process.budget(database))
    process.stack.push_async_callback(scoring.close)
    servicer = RerankServicer(scoring, settings.margin_seconds)
    process.serve(v1.add_RerankServiceServicer_to_server, servicer)
    process.serve(
        operations_v1.add_OperationsServiceServicer_to_server,
        OperationsServicer(providers.breakers),
    )


if __name__ == "__main__":
    run(RerankSettings, start)
