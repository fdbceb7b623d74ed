"""When the answer cache asks for the state of the corpus, and what it then serves."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from meshkit.context import RequestContext
from meshkit.errors import MeshError, Unavailable
from services.generation.answer_cache import AnswerCache, Asked
from services.generation.answers import CacheStatus, Done, Question, Sources
from services.generation.confidence import Confidence

CALLER = RequestContext(
    "prj_1", (), frozenset({"read"}), "key_1", "req_1", "gateway", expires_at=0.0, token=""
)
ASKED = Asked(Question("How many days?"), "How many days?", CALLER)


def answer(text: str) -> tuple[Sources, Done]:
    return Sources(()), Done(
        "ans_1", text, (), Confidence.VERIFIED, "m", "local", (), CacheStatus.EXACT, ()
    )


class Store:
    """Answers by the epoch they were given over, as processes that share one have left them."""

    def __init__(self, kept: dict[int, tuple[Sources, Done]]) -> None:
        self.kept = kept
        self.failing: Exception | None = None

    async def cached(self, _project: str, _key: bytes, epoch: int) -> Any:
        return self.kept.get(epoch)

    async def forget_answers(self, _project: str, *, before_epoch: int) -> None:
        if self.failing:
            raise self.failing
        self.kept = {epoch: kept for epoch, kept in self.kept.items() if epoch >= before_epoch}


class Retrieval:
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.told = 0
        self.error: MeshError | None = None

    async def corpus_epoch(self, *, seconds: float) -> int:
        if self.error:
            raise self.error
        self.told += 1
        return self.epoch


async def look(cache: AnswerCache) -> str | None:
    async def none() -> None:
        return None

    kept = await cache.look(ASKED, asyncio.create_task(none()), seconds=1.0)
    assert kept is None or kept.cache is CacheStatus.EXACT
    return kept.done.answer if kept else None


def make(store: Store, retrieval: Retrieval) -> AnswerCache:
    stand_in_store: Any = store
    stand_in_retrieval: Any = retrieval
    return AnswerCache(stand_in_store, stand_in_retrieval, "local/m", similarity=0.0)


async def test_the_first_look_of_a_process_asks_for_the_state_of_the_corpus() -> None:
    retrieval = Retrieval(4)
    assert await look(make(Store({4: answer("of 4")}), retrieval)) == "of 4"
    assert retrieval.told == 1


async def test_a_look_that_finds_nothing_asks_nobody() -> None:
    retrieval = Retrieval(4)
    cache = make(Store({}), retrieval)
    await cache.saw("prj_1", 4)
    assert await look(cache) is None
    assert retrieval.told == 0


async def test_what_was_answered_over_the_corpus_before_is_not_served_and_forgotten() -> None:
    store, retrieval = Store({4: answer("of 4")}), Retrieval(5)
    cache = make(store, retrieval)
    await cache.saw("prj_1", 4)
    assert await look(cache) is None
    assert (retrieval.told, store.kept) == (1, {})


async def test_the_answer_of_another_process_over_the_changed_corpus_is_served() -> None:
    store = Store({4: answer("of 4"), 5: answer("of 5")})
    cache = make(store, Retrieval(5))
    await cache.saw("prj_1", 4)
    assert await look(cache) == "of 5"
    assert list(store.kept) == [5]


async def test_nothing_is_served_when_nobody_can_tell_the_state_of_the_corpus() -> None:
    retrieval = Retrieval(4)
    cache = make(Store({4: answer("of 4")}), retrieval)
    await cache.saw("prj_1", 4)
    retrieval.error = Unavailable("SERVICE_UNAVAILABLE", "Gone.")
    assert await look(cache) is None


@pytest.mark.parametrize(
    "error",
    [Unavailable("DATABASE_UNAVAILABLE", "Gone."), asyncpg.DeadlockDetectedError("deadlock")],
)
async def test_a_search_goes_on_when_older_answers_cannot_be_forgotten(error: Exception) -> None:
    store = Store({3: answer("of 3")})
    store.failing = error
    cache = make(store, Retrieval(4))
    await cache.saw("prj_1", 4)
    assert await look(cache) is None
