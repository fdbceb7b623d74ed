"""What adapters do when providers work: vectors, scores, texts, tokens, money, connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from loadtest.simulator import writing
from loadtest.simulator.running import RunningSimulator
from meshkit import deadline
from meshkit.errors import Precondition, Unavailable
from meshkit.providers import catalogue
from meshkit.providers.catalogue import Operation
from meshkit.providers.errors import ProviderError, TimedOut
from meshkit.usage import Spend
from services.embedding import api
from services.embedding.embedder import Task
from services.embedding.spaces import parse_name
from services.generation.language_model import Finish, Finished, Message, Prompt, Role
from services.rerank.scoring import Scoring
from tests.contract.providers import ANSWER, PROMPT, TARGETS, adapter, use, written

MODELS = ("gemini", "cohere", "anthropic")


async def test_a_vector_that_gemini_cuts_short_leaves_with_length_one(
    simulator: RunningSimulator,
) -> None:
    async with adapter("embed", simulator.access("gemini")) as embedder:
        embedded = await embedder.embed(["a pump", "a valve"], Task.DOCUMENT)
    assert embedded.vectors.shape == (2, 768)
    assert np.linalg.norm(embedded.vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)
    # Gemini counts no tokens of embeddings.
    assert embedded.estimated
    assert embedded.cost_micro_usd > 0


async def test_questions_and_documents_are_told_apart(simulator: RunningSimulator) -> None:
    for provider in ("gemini", "cohere"):
        async with adapter("embed", simulator.access(provider)) as embedder:
            as_question = (await embedder.embed(["a pump"], Task.QUERY)).vectors[0]
            as_document = (await embedder.embed(["a pump"], Task.DOCUMENT)).vectors[0]
        assert 0.9 < as_question @ as_document < 0.9999


async def test_cohere_counts_the_tokens_that_are_paid(simulator: RunningSimulator) -> None:
    async with adapter("embed", simulator.access("cohere")) as embedder:
        embedded = await embedder.embed(["twelve chars", "four"], Task.DOCUMENT)
    assert (embedded.input_tokens, embedded.estimated) == (4, False)


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ("gemini/gemini-embedding-001@500", "3072, 1536, 768"),
        ("cohere/embed-v5.0-fast@3072", "2048"),
    ],
)
def test_a_length_that_the_model_does_not_give_is_refused(space: str, says: str) -> None:
    name = parse_name(space)
    model = catalogue.load().find(name.provider, Operation.EMBED, name.model)
    with pytest.raises(Precondition, match=says):
        api.identity(name, model)


def test_every_length_of_a_model_is_a_space_of_its_own() -> None:
    model = catalogue.load().find("gemini", Operation.EMBED)
    names = [parse_name(f"gemini/gemini-embedding-001@{length}") for length in (768, 1536)]
    versions = {api.identity(name, model, "RETRIEVAL_QUERY").version for name in names}
    assert len(versions) == 2


async def test_scores_come_as_log_odds_of_the_providers(simulator: RunningSimulator) -> None:
    async with adapter("rerank", simulator.access("cohere")) as reranker:
        reading = await reranker.score(
            "pump seal", ["a garden", "the seal of the pump"], whole=False, until=None
        )
    by_index = {each.index: each for each in reading.scored}
    assert by_index[1].logit > 0 > by_index[0].logit
    assert 0.5 < by_index[1].score < 1
    assert reading.cost_micro_usd > 0


@pytest.mark.parametrize("provider", MODELS)
async def test_a_text_arrives_in_pieces_with_what_it_took(
    simulator: RunningSimulator, provider: str
) -> None:
    simulator.pace(generate={"tokens_per_second": 20, "spread": 0})
    async with adapter("generate", simulator.access(provider)) as model:
        pieces = [
            step async for step in model.stream(PROMPT, max_tokens=200, seconds=30, patience=30)
        ]
        asked = model.estimate(PROMPT, 200)
    *texts, finished = pieces
    assert "".join(texts) == ANSWER
    assert len(texts) > 3
    assert isinstance(finished, Finished)
    assert finished.finish is Finish.STOP
    assert not finished.spent.estimated
    assert finished.spent.input_tokens > 30
    assert finished.spent.output_tokens >= 10
    # What is reserved before is never less than what it takes.
    assert 0 < finished.spent.cost_micro_usd <= asked.cost_micro_usd


@pytest.mark.parametrize("provider", MODELS)
async def test_a_text_is_told_in_twenty_pieces_a_second_and_never_falls_behind(
    simulator: RunningSimulator, provider: str
) -> None:
    # 200 words, 5 ms apart.
    simulator.pace(generate={"tokens_per_second": 200, "spread": 0, "answer_tokens": 300})
    async with adapter("generate", simulator.access(provider)) as model:
        began = time.monotonic()
        stream = model.stream(PROMPT, max_tokens=400, seconds=30, patience=30)
        texts = [step async for step in stream if isinstance(step, str)]
        took = time.monotonic() - began
    assert "".join(texts).startswith(f"{ANSWER} {ANSWER}")
    assert len(texts) <= 20 * took + 1
    # A pause after every word would make as many pieces as words.
    assert len(texts) < 0.5 * len(writing.pieces("".join(texts)))


@pytest.mark.parametrize("provider", MODELS)
async def test_a_text_ends_at_the_limit_and_says_so(
    simulator: RunningSimulator, provider: str
) -> None:
    async with adapter("generate", simulator.access(provider)) as model:
        stream = model.stream(PROMPT, max_tokens=3, seconds=5, patience=5)
        last = [step async for step in stream][-1]
    # Gemini's thoughts count against the same limit; room is left for them.
    expected = Finish.STOP if provider == "gemini" else Finish.MAX_TOKENS
    assert last.finish is expected


@pytest.mark.parametrize("provider", ["gemini", "anthropic"])
async def test_the_same_sources_again_are_read_from_the_providers_cache(
    simulator: RunningSimulator, provider: str
) -> None:
    other = Prompt(
        PROMPT.system,
        (
            PROMPT.messages[0],
            Message(Role.USER, "<question>\nWhich vacation is paid?\n</question>"),
        ),
    )
    async with adapter("generate", simulator.access(provider)) as model:
        _, first = await written(model)
        _, second = await written(model, prompt=other)
    assert second.spent.cost_micro_usd < first.spent.cost_micro_usd


@pytest.mark.parametrize("provider", MODELS)
async def test_a_dialogue_of_several_turns_is_taken(
    simulator: RunningSimulator, provider: str
) -> None:
    turns = (
        Message(Role.USER, "What is a pump?"),
        Message(Role.ASSISTANT, "A machine that moves water."),
        Message(Role.USER, "And a valve?"),
    )
    async with adapter("generate", simulator.access(provider)) as model:
        text, _ = await written(model, prompt=Prompt("", turns))
    assert "valve" in text


@pytest.mark.parametrize("provider", MODELS)
async def test_a_temperature_is_sent_only_to_models_that_take_one(
    simulator: RunningSimulator, provider: str
) -> None:
    async with adapter("generate", simulator.access(provider)) as model:
        stream = model.stream(PROMPT, max_tokens=100, seconds=5, patience=5, temperature=0.2)
        assert [step async for step in stream]


@pytest.mark.parametrize("provider", MODELS)
async def test_a_text_that_falls_silent_is_given_up(
    simulator: RunningSimulator, provider: str
) -> None:
    simulator.fault("hang", operation="generate", after=3)
    pieces: list[Any] = []
    async with adapter("generate", simulator.access(provider)) as model:
        with pytest.raises(TimedOut):
            async for step in model.stream(PROMPT, max_tokens=200, seconds=60, patience=2):
                pieces.append(step)  # noqa: PERF401 - what came before an error counts
    assert "".join(pieces) == "".join(writing.pieces(ANSWER)[:3])


@pytest.mark.parametrize("provider", ["gemini", "cohere", "anthropic"])
async def test_a_text_that_was_read_to_its_end_leaves_its_connection_to_the_next(
    simulator: RunningSimulator, provider: str
) -> None:
    async with adapter("generate", simulator.access(provider)) as model:
        for _ in range(3):
            await written(model)
    [first, *others] = simulator.connections(provider)
    assert others == [first, first]


@pytest.mark.parametrize("provider", MODELS)
async def test_leaving_a_stream_closes_the_connection(
    simulator: RunningSimulator, provider: str
) -> None:
    simulator.fault("hang", provider=provider, after=3, seconds=30)
    async with adapter("generate", simulator.access(provider)) as model:
        stream = model.stream(PROMPT, max_tokens=100, seconds=30, patience=30)
        await anext(stream)
        await stream.aclose()
        await closed(simulator, provider)


@pytest.mark.parametrize(("provider", "operation"), TARGETS)
async def test_a_cancelled_call_closes_its_connection_and_the_next_one_has_another(
    simulator: RunningSimulator, provider: str, operation: str
) -> None:
    after = 3 if operation == "generate" else 0
    simulator.fault("hang", provider=provider, after=after, seconds=30, times=1)
    async with adapter(operation, simulator.access(provider)) as opened:
        calling = asyncio.create_task(use(operation, opened, 30))
        while not simulator.counts(provider, operation):
            await asyncio.sleep(0.01)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await closed(simulator, provider, operation)
        assert await use(operation, opened)
    first, second = simulator.connections(provider)
    assert first != second


@pytest.mark.parametrize("provider", MODELS)
async def test_no_stream_waits_for_the_end_of_a_hundred_others(
    simulator: RunningSimulator, provider: str
) -> None:
    simulator.fault("hang", provider=provider, after=3, seconds=30)
    async with adapter("generate", simulator.access(provider)) as model:
        streams = [
            model.stream(PROMPT, max_tokens=100, seconds=30, patience=30) for _ in range(110)
        ]
        async with asyncio.timeout(20):
            assert all(await asyncio.gather(*map(anext, streams)))
        await asyncio.gather(*(stream.aclose() for stream in streams))


async def closed(simulator: RunningSimulator, provider: str, operation: str = "generate") -> None:
    async with asyncio.timeout(5):
        while simulator.counts(provider, operation).get("abandoned") != 1:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("provider", "operation"), [("gemini", "embed"), ("cohere", "embed"), ("cohere", "rerank")]
)
async def test_a_call_lasts_no_longer_than_its_caller_has_time(
    simulator: RunningSimulator, provider: str, operation: str
) -> None:
    simulator.fault("hang", provider=provider, seconds=30)
    async with adapter(operation, simulator.access(provider)) as opened:
        began = time.monotonic()
        with deadline.within(0.3), pytest.raises(ProviderError) as caught:
            await use(operation, opened)
    assert caught.value.kind == "timed_out"
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("provider", MODELS)
async def test_many_streams_at_once_do_not_mix(simulator: RunningSimulator, provider: str) -> None:
    prompts = [
        Prompt("", (Message(Role.USER, f"<question>\nzebra{n} yak{n}\n</question>"),))
        for n in range(20)
    ]
    async with adapter("generate", simulator.access(provider)) as model:
        found = await asyncio.gather(*(written(model, prompt=prompt) for prompt in prompts))
    for n, (text, _) in enumerate(found):
        assert f"zebra{n} yak{n}." in text


async def test_a_rerank_that_was_taken_and_not_answered_is_paid_by_estimate(
    simulator: RunningSimulator,
) -> None:
    budget = Recorded()
    async with adapter("rerank", simulator.access("cohere")) as reranker:
        scoring = Scoring([reranker], budget)  # type: ignore[arg-type]
        simulator.fault("malformed", provider="cohere", times=1)
        with pytest.raises(Unavailable):
            await scoring.score("pump", ["a pump"], whole=True, until=None)
        simulator.fault("overloaded", provider="cohere", times=1)
        with pytest.raises(Unavailable):
            await scoring.score("pump", ["a pump"], whole=True, until=None)
    # Another one: after two failures in a row the first is given a rest.
    async with adapter("rerank", simulator.access("cohere")) as reranker:
        scoring = Scoring([reranker], budget)  # type: ignore[arg-type]
        await scoring.score("pump", ["a pump"], whole=True, until=None)
    taken, refused, answered = (spend.used for spend in budget.spends)
    assert taken[0].cost_micro_usd == 1
    assert refused == []
    assert answered[0].input_tokens > 0


class Recorded:
    """A budget without a database that keeps what was spent."""

    def __init__(self) -> None:
        self.spends: list[Spend] = []

    @asynccontextmanager
    async def spend(
        self, *, estimate_micro_usd: int, stage: str, provider: str, model: str
    ) -> AsyncIterator[Spend]:
        assert estimate_micro_usd > 0
        self.spends.append(Spend(provider, model))
        yield self.spends[-1]
