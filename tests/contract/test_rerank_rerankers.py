"""What every reranker promises, whoever provides it; a new provider joins `RERANKERS`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from meshkit import weights
from meshkit.weights.threads import ModelThreads
from services.rerank.local import LocalReranker
from services.rerank.ranking import best_first
from services.rerank.reranker import Reading, Reranker

RERANKERS = ["local"]

QUESTION = "How many days of paid leave does an employee have?"
ANSWER = "Every employee is entitled to 28 days of paid annual leave."
UNRELATED = "The pump's impeller must be replaced after 4,000 hours of operation."
FILLER = "The committee met on Tuesday and approved the minutes of its former meeting. " * 30


@pytest.fixture(scope="module", params=RERANKERS)
async def reranker(request: pytest.FixtureRequest) -> AsyncIterator[Reranker]:
    threads = ModelThreads(2, "test")
    name = "ms-marco-MiniLM-L-12-v2"
    found = await asyncio.to_thread(weights.ensure, [name])
    opened = LocalReranker(found[name], threads, window_tokens=100)
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


async def test_a_score_depends_on_its_pair_alone(reranker: Reranker) -> None:
    alone = logits(await read(reranker, [ANSWER]))[0]
    among = logits(await read(reranker, [UNRELATED, FILLER, ANSWER, ANSWER]))
    assert among[2] == among[3] == alone


async def test_an_answer_deep_in_a_long_passage_is_found_by_its_window(reranker: Reranker) -> None:
    deep = f"{FILLER} {ANSWER} {FILLER}"
    windowed = logits(await read(reranker, [deep]))[0]
    whole = logits(await read(reranker, [deep], whole=True))[0]
    assert windowed > whole + 2


async def test_short_passages_are_read_the_same_either_way(reranker: Reranker) -> None:
    assert logits(await read(reranker, [ANSWER])) == logits(
        await read(reranker, [ANSWER], whole=True)
    )


async def test_a_window_costs_less_than_the_whole(reranker: Reranker) -> None:
    windowed = await read(reranker, [FILLER])
    whole = await read(reranker, [FILLER], whole=True)
    assert windowed.input_tokens < 130 < whole.input_tokens <= 512


@pytest.mark.parametrize("query", ["word " * 1600, " ", "名前", "?"])
async def test_no_query_is_too_strange_or_too_long(reranker: Reranker, query: str) -> None:
    for whole in (False, True):
        reading = await read(reranker, [FILLER, " ", "\x00", ANSWER], whole=whole, query=query)
        assert len(reading.scored) == 4


async def test_a_deadline_leaves_out_what_the_caller_ranked_last(reranker: Reranker) -> None:
    started = time.monotonic()
    await read(reranker, [FILLER], whole=True)
    one_pair = time.monotonic() - started
    until = time.monotonic() + 6 * one_pair
    reading = await reranker.score(QUESTION, [FILLER] * 200, whole=True, until=until)
    late = time.monotonic() - until
    assert 1 <= len(reading.scored) < 100
    assert {each.index for each in reading.scored} == set(range(len(reading.scored)))
    # All 200 would take until 94 pairs later.
    assert late < 10 * one_pair


async def test_a_deadline_that_has_passed_gives_nothing_at_once(reranker: Reranker) -> None:
    reading = await reranker.score(QUESTION, [ANSWER] * 50, whole=False, until=time.monotonic() - 1)
    assert reading == Reading([], 0)


async def test_a_cancelled_call_gives_the_threads_back_at_once(reranker: Reranker) -> None:
    started = time.monotonic()
    await read(reranker, [FILLER], whole=True)
    one_pair = time.monotonic() - started
    call = asyncio.create_task(read(reranker, [FILLER] * 200, whole=True))
    await asyncio.sleep(one_pair)  # the call is in the middle of its work
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    started = time.monotonic()
    await read(reranker, [FILLER], whole=True)
    # All 200 would take 100 times this long on two threads.
    assert time.monotonic() - started < 20 * one_pair
