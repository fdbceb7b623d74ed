"""What every embedder promises, whoever provides it; a new provider joins `EMBEDDERS`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest

from loadtest.simulator.running import RunningSimulator
from meshkit import weights
from meshkit.providers import catalogue, cohere, gemini
from meshkit.providers.catalogue import Operation
from meshkit.weights.threads import ModelThreads
from services.embedding.cohere import CohereEmbedder
from services.embedding.embedder import Embedder, Task
from services.embedding.gemini import GeminiEmbedder
from services.embedding.local import LocalEmbedder
from services.embedding.spaces import parse_name
from services.embedding.vectors import Vectors, checked
from tests.contract.providers import gate_of

LOCAL = ["local/bge-small-en-v1.5@384", "local/all-MiniLM-L6-v2@384"]
EMBEDDERS = [*LOCAL, "gemini/gemini-embedding-001@768", "cohere/embed-v5.0-fast@512"]

QUESTION = "How many days of paid leave does an employee have?"
ANSWER = "Every employee is entitled to 28 days of paid annual leave."
UNRELATED = "The pump's impeller must be replaced after 4,000 hours of operation."
LONG = "The quick brown fox jumps over the lazy dog. " * 400


async def open_embedder(name: str, threads: ModelThreads, simulator: RunningSimulator) -> Embedder:
    space = parse_name(name)
    if space.provider == "local":
        found = await asyncio.to_thread(weights.ensure, [space.model])
        return LocalEmbedder(space, found[space.model], threads)
    model = catalogue.load().find(space.provider, Operation.EMBED, space.model)
    access = simulator.access(space.provider)
    if space.provider == "gemini":
        return GeminiEmbedder(space, model, gemini.Client(access), gate_of(model))
    return CohereEmbedder(space, model, cohere.open_client(access), gate_of(model))


@pytest.fixture(scope="module", params=EMBEDDERS)
async def embedder(
    request: pytest.FixtureRequest, simulator_process: RunningSimulator
) -> AsyncIterator[Embedder]:
    threads = ModelThreads(2, "test")
    simulator_process.reset()
    opened = await open_embedder(request.param, threads, simulator_process)
    yield opened
    await opened.close()
    threads.close()


@pytest.fixture(scope="module", params=LOCAL)
async def local_embedder(
    request: pytest.FixtureRequest, simulator_process: RunningSimulator
) -> AsyncIterator[Embedder]:
    """One whose work is done in this process."""
    threads = ModelThreads(2, "test")
    opened = await open_embedder(request.param, threads, simulator_process)
    yield opened
    await opened.close()
    threads.close()


async def vectors(embedder: Embedder, texts: list[str], task: Task = Task.DOCUMENT) -> Vectors:
    return (await embedder.embed(texts, task)).vectors


async def test_every_vector_fits_its_space(embedder: Embedder) -> None:
    texts = [ANSWER, UNRELATED, LONG, " ", "?", "名前", "\x00\ufffd", "🦊" * 50]
    identity = embedder.identity
    found = await vectors(embedder, texts)
    checked(
        found,
        texts=len(texts),
        dimensions=identity.dimensions,
        normalized=identity.normalized,
    )
    assert found.dtype == np.float32


async def test_an_answer_is_nearer_to_its_question_than_something_else(embedder: Embedder) -> None:
    [question] = await vectors(embedder, [QUESTION], Task.QUERY)
    related, unrelated = await vectors(embedder, [ANSWER, UNRELATED])
    assert question @ related > question @ unrelated + 0.1


async def test_a_vector_depends_on_its_text_alone(embedder: Embedder) -> None:
    alone = await vectors(embedder, [ANSWER])
    among = await vectors(embedder, [UNRELATED, LONG, ANSWER, "?", ANSWER])
    assert among[2].tobytes() == alone[0].tobytes()
    assert among[4].tobytes() == alone[0].tobytes()


async def test_vectors_come_in_the_order_of_the_texts(embedder: Embedder) -> None:
    texts = [LONG, "one", ANSWER, "two", UNRELATED, "three"]
    together = await vectors(embedder, texts)
    for text, vector in zip(texts, together, strict=True):
        assert (await vectors(embedder, [text]))[0].tobytes() == vector.tobytes()


async def test_calls_side_by_side_do_not_disturb_each_other(embedder: Embedder) -> None:
    alone = await vectors(embedder, [ANSWER, UNRELATED])
    many = await asyncio.gather(*(vectors(embedder, [ANSWER, UNRELATED]) for _ in range(8)))
    assert all(found.tobytes() == alone.tobytes() for found in many)


async def test_tokens_are_counted_and_end_at_the_limit(local_embedder: Embedder) -> None:
    short = await local_embedder.embed(["one two three"], Task.DOCUMENT)
    assert 3 <= short.input_tokens <= 12
    long = await local_embedder.embed([LONG, LONG], Task.DOCUMENT)
    assert long.input_tokens == 2 * local_embedder.limits.max_tokens_per_text


async def test_the_rest_of_a_text_beyond_the_limit_is_not_seen(local_embedder: Embedder) -> None:
    first, second = await vectors(local_embedder, [LONG, LONG + UNRELATED])
    assert first.tobytes() == second.tobytes()


async def test_a_cancelled_call_gives_the_threads_back_at_once(local_embedder: Embedder) -> None:
    started = time.perf_counter()
    await vectors(local_embedder, [LONG])
    one_text = time.perf_counter() - started
    call = asyncio.create_task(vectors(local_embedder, [LONG] * 200))
    await asyncio.sleep(one_text)  # the call is in the middle of its work
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    started = time.perf_counter()
    await vectors(local_embedder, [LONG])
    # All 200 would take 100 times this long on two threads.
    assert time.perf_counter() - started < 20 * one_text


async def test_the_event_loop_goes_on_while_a_model_works(local_embedder: Embedder) -> None:
    work = asyncio.create_task(vectors(local_embedder, [LONG] * 4))
    ticks = 0
    while not work.done():
        await asyncio.sleep(0.001)
        ticks += 1
    assert ticks > 20
    assert len(work.result()) == 4


async def test_a_short_call_does_not_wait_for_a_long_one(local_embedder: Embedder) -> None:
    bulk = asyncio.create_task(vectors(local_embedder, [LONG] * 40))
    await asyncio.sleep(0)
    await vectors(local_embedder, ["one"], Task.QUERY)
    assert not bulk.done()
    bulk.cancel()
    with pytest.raises(asyncio.CancelledError):
        await bulk


async def test_a_model_that_expects_a_prefix_before_questions_gets_it(
    simulator_process: RunningSimulator,
) -> None:
    threads = ModelThreads(1, "test")
    embedder = await open_embedder("local/bge-small-en-v1.5@384", threads, simulator_process)
    [question] = await vectors(embedder, [QUESTION], Task.QUERY)
    prefix = "Represent this sentence for searching relevant passages: "
    plain, prefixed = await vectors(embedder, [QUESTION, prefix + QUESTION])
    assert question.tobytes() == prefixed.tobytes()
    assert question.tobytes() != plain.tobytes()
    threads.close()
