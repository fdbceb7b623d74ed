"""`python -m services.generation`: serves until SIGTERM."""

import asyncio
from datetime import timedelta

from citemesh.embedding import v1 as embedding_v1
from citemesh.generation import v1 as generation_v1
from citemesh.guardrail import v1 as guardrail_v1
from citemesh.operations import v1 as operations_v1
from citemesh.rerank import v1 as rerank_v1
from citemesh.retrieval import v1 as retrieval_v1
from meshkit.errors import MeshError
from meshkit.logging import logger
from meshkit.process import Process, run
from meshkit.providers import settings as provider_settings
from meshkit.providers.servicer import OperationsServicer
from meshkit.providers.settings import Providers
from meshkit.settings import SettingsInvalid
from services.generation.abstractive import AbstractiveGenerator
from services.generation.calls.finding import FindingCalls
from services.generation.calls.guardrail import GuardrailCalls
from services.generation.calls.scoring import RerankCalls
from services.generation.extractive import ExtractiveGenerator
from services.generation.failover import LanguageModels
from services.generation.generator import Generator
from services.generation.opening import cheapest, open_models
from services.generation.pipeline import Answerer, AnswerPolicy
from services.generation.rewriting import Rewriting
from services.generation.rhythm import Rhythm
from services.generation.servicer import GenerationServicer
from services.generation.settings import GenerationSettings
from services.generation.store import Store
from services.generation.writing import Writing

log = logger(__name__)

SWEEP_SECONDS = 900.0


async def start(process: Process[GenerationSettings]) -> None:
    """Builds the service from its neighbours, its database and the budget."""
    settings = process.settings
    guardrail = guardrail_v1.GuardrailServiceAsyncStub(process.channel("guardrail"))
    embedding = embedding_v1.EmbeddingServiceAsyncStub(process.channel("embedding"))
    retrieval = retrieval_v1.RetrievalServiceAsyncStub(process.channel("retrieval"))
    rerank = rerank_v1.RerankServiceAsyncStub(process.channel("rerank"))
    database = await process.database("generation", "usage")
    store = Store(
        database,
        cache_lifetime=timedelta(hours=settings.cache_hours),
        retention=timedelta(days=settings.conversation_days),
    )
    quoting = ExtractiveGenerator(
        RerankCalls(rerank),
        limit=settings.scored_sentences,
    )
    providers = provider_settings.load()
    rhythm = Rhythm(longest=settings.longest_pause_seconds, per_second=settings.pieces_per_second)
    try:
        opened = open_models(settings.language_models, providers, rhythm)
    except MeshError as error:
        # A sentence for whoever starts the mesh, without a stack trace, and no restarts.
        raise SettingsInvalid(error.detail) from error
    models = LanguageModels(opened, first_word_seconds=settings.first_word_seconds)
    process.stack.push_async_callback(models.close)
    generator: Generator = quoting
    if opened:
        generator = AbstractiveGenerator(
            models,
            last_resort=quoting if settings.quotes else None,
            source_tokens=settings.prompt_tokens,
            goes_on=settings.interrupted != "end",
        )
    budget = await process.budget(database)
    helper = open_helper(settings, providers, rhythm)
    process.stack.push_async_callback(helper.close)
    answerer = Answerer(
        guardrail=GuardrailCalls(guardrail),
        finding=FindingCalls(embedding, retrieval),
        generator=generator,
        store=store,
        budget=budget,
        rewriting=Rewriting(helper, budget),
        policy=AnswerPolicy(
            seconds=settings.answer_seconds,
            passages=settings.passages,
            prompt_tokens=settings.prompt_tokens if opened else 0,
            rewrite_seconds=settings.rewrite_seconds,
            release=settings.release,
            keeps_sentences=settings.interrupted == "continue",
            use_cache=settings.cache_hours > 0,
            similarity=settings.semantic_cache_similarity,
        ),
    )
    writing = Writing(
        models, budget, settings.answer_seconds, goes_on=settings.interrupted != "end"
    )
    process.serve(
        generation_v1.add_GenerationServiceServicer_to_server,
        GenerationServicer(answerer, store, writing),
    )
    process.serve(
        operations_v1.add_OperationsServiceServicer_to_server,
        OperationsServicer(providers.breakers),
    )
    process.background("sweep", sweep(store))


def open_helper(
    settings: GenerationSettings, providers: Providers, rhythm: Rhythm
) -> LanguageModels:
    """Who does cheap work; nobody where no language model is named.

    Raises:
        SettingsInvalid: no such model, or its provider's key is missing.
    """
    names: list[str] = []
    if settings.language_models and settings.helper != "none":
        names = [settings.helper or cheapest(settings.language_models, providers)]
    try:
        opened = open_models(names, providers, rhythm)
    except MeshError as error:
        raise SettingsInvalid(error.detail) from error
    return LanguageModels(opened, first_word_seconds=settings.first_word_seconds)


async def sweep(store: Store) -> None:
    """Forgets what is over, every quarter of an hour; runs until cancelled."""
    while True:
        try:
            removed = await store.sweep()
            log.info("swept", removed=removed)
        except MeshError as error:
            log.warning("sweep postponed", reason=error.reason)
        await asyncio.sleep(SWEEP_SECONDS)


if __name__ == "__main__":
    run(GenerationSettings, start)
