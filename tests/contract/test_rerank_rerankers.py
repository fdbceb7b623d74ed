"""What every reranker promises, whoever provides it; a new provider joins `RERANKERS`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from loadtest.simulator.running import RunningSimulator
from meshkit import weights
from meshkit.providers import catalogue, cohere
from meshkit.providers.catalogue import Operation
from meshkit.weights.threads import ModelThreads
from services.rerank.cohere import CohereReranker
from services.rerank.local import LocalReranker
from services.rerank.ranking import best_first
from services.rerank.reranker import Reading, Reranker
from tests.contract.providers import gate_of

RERANKERS = ["local", "cohere"]

QUESTION = "How many days of paid leave does an employee have?"
ANSWER = "Every employee is entitled to 28 days of paid annual leave."
UNRELATED = "The pump's impeller must be replaced after 4,000 hours of operation."
FILLER = "The committee met on Tuesday and approved the minutes of its former meeting. " * 30


async def open_local(threads: ModelThreads) -> Reranker:
    name = "ms-marco-MiniLM-L-12-v2"
    found = await asyncio.to_thread(weights.ensure, [name])
    return LocalReranker(found[name], threads, window_tokens=100)


@pytest.fixture(scope="module", params=RERANKERS)
async def reranker(
    request: pytest.FixtureRequest, simulator_process: RunningSimulator
) -> AsyncIterator[Reranker]:
    threads = ModelThreads(2, "test")
    simulator_process.reset()
    opened: Reranker
    if request.param == "local":
        opened = await open_local(threads)
    else:
        model = catalogue.load().find("cohere", Operation.RERANK)
        opened = CohereReranker(
            model, cohere.open_client(simulator_process.access("cohere")), gate_of(model)
        )
    yield opened
    await opened.close()
    threads.close()


@pytest.fixture(scope="module")
async def local_reranker() -> AsyncIterator[Reranker]:
    """The one that reads pair by pair in this process."""
    threads = ModelThreads(2, "test")
    opened = await open_local(threads)
    yield opened
    await opened.close()
    threads.close()


async def read(
    reranker: Reranker, passages: list[str], *, whole: bool = False, query: str = QUESTION
) -> Reading:
    return await reranker.score(query, passages, whole=whole, until=None)


def logits(reading: Reading) -> dict[int, float]:
    return {each.index: each.logit for each in reading.scored}


async def test_the_answer_is_probable_and_something_else_is_not(reranker: Reranker) -> None:
    reading = await read(reranker, [UNRELATED, ANSWER])
    best, worst = best_first(reading.scored)
    assert (best.index, worst.index) == (1, 0)
    assert best.score > 0.5
    assert worst.score < 0.01


async def test_a_score_depends_on_its_pair_alone(local_reranker: Reranker) -> None:
    alone = logits(await read(local_reranker, [ANSWER]))[0]
    among = logits(await read(local_reranker, [UNRELATED, FILLER, ANSWER, ANSWER]))
    assert among[2] == among[3] == alone


async def test_an_answer_deep_in_a_long_passage_is_found_by_its_window(
    local_reranker: Reranker,
) -> None:
    deep = f"{FILLER} {ANSWER} {FILLER}"
    windowed = logits(await read(local_reranker, [deep]))[0]
    whole = logits(await read(local_reranker, [deep], whole=True))[0]
    assert windowed > whole + 2


async def test_short_passages_are_read_the_same_either_way(reranker: Reranker) -> None:
    assert logits(await read(reranker, [ANSWER])) == logits(
        await read(reranker, [ANSWER], whole=True)
    )


async def test_a_window_costs_less_than_the_whole(local_reranker: Reranker) -> None:
    windowed = await read(local_reranker, [FILLER])
    whole = await read(local_reranker, [FILLER], whole=True)
    assert windowed.input_tokens < 130 < whole.input_tokens <= 512


@pytest.mark.parametrize("query", ["word " * 1600, " ", "名前", "?"])
async def test_no_query_is_too_strange_or_too_long(reranker: Reranker, query: str) -> None:
    for whole in (False, True):
        reading = await read(reranker, [FILLER, " ", "\x00", ANSWER], whole=whole, query=query)
        assert len(reading.scored) == 4


async def test_a_deadline_leaves_out_what_the_caller_ranked_last(local_reranker: Reranker) -> None:
    started = time.monotonic()
    await read(local_reranker, [FILLER], whole=True)
    one_pair = time.monotonic() - started
    until = time.monotonic() + 6 * one_pair
    reading = await local_reranker.score(QUESTION, [FILLER] * 200, whole=True, until=until)
    late = time.monotonic() - until
    assert 1 <= len(reading.scored) < 100
    # Two pairs are read at a time: of those, the later one may have been done first.
    assert {each.index for each in reading.scored} >= set(range(len(reading.scored) - 1))
    # All 200 would take until 94 pairs later.
    assert late < 60 * one_pair


async def test_a_deadline_that_has_passed_gives_nothing_at_once(local_reranker: Reranker) -> None:
    reading = await local_reranker.score(
        QUESTION, [ANSWER] * 50, whole=False, until=time.monotonic() - 1
    )
    assert (reading.scored, reading.input_tokens) == ([], 0)


async def test_a_cancelled_call_gives_the_threads_back_at_once(local_reranker: Reranker) -> None:
    started = time.monotonic()
    await read(local_reranker, [FILLER], whole=True)
    one_pair = time.monotonic() - started
    call = asyncio.create_task(read(local_reranker, [FILLER] * 200, whole=True))
    await asyncio.sleep(one_pair)  # the call is in the middle of its work
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    started = time.monotonic()
    await read(local_reranker, [FILLER], whole=True)
    # All 200 would take 100 times this long on two threads.
    assert time.monotonic() - started < 20 * one_pair
