"""Waiting for a share of a quota, without a provider."""

from __future__ import annotations

import asyncio
import time

import pytest

from meshkit.providers.catalogue import Model, Operation
from meshkit.providers.errors import RateLimited
from meshkit.providers.throttle import LOCAL, Throttle
from meshkit.resilience.rate import Lane


def throttle(**limits: int) -> Throttle:
    return Throttle(Model("gemini", Operation.EMBED, "m", **limits), 1.0)  # type: ignore[arg-type]


async def take(
    one: Throttle, tokens: int = 1, lane: Lane = Lane.QUESTION, seconds: float = 5
) -> None:
    await one.take(tokens, lane=lane, project="p", seconds=seconds)


async def test_without_limits_nobody_waits() -> None:
    one = throttle()
    async with asyncio.timeout(5):
        for _ in range(1_000):
            await take(one, tokens=1_000_000)


async def test_a_call_that_could_not_be_made_in_time_is_refused_at_once() -> None:
    one = throttle(requests_per_minute=10)
    await take(one)
    began = time.monotonic()
    with pytest.raises(RateLimited) as refused:
        await take(one, seconds=1.0)
    assert time.monotonic() - began < 0.9
    assert refused.value.code == LOCAL
    assert 1.0 < (refused.value.retry_after or 0) <= 7.0


async def test_a_day_s_requests_end_with_the_day() -> None:
    one = Throttle(
        Model("gemini", Operation.GENERATE, "m", requests_per_day=2), 1.0, today=lambda: 86_000.0
    )
    await take(one)
    await take(one)
    with pytest.raises(RateLimited) as refused:
        await take(one)
    assert refused.value.retry_after == 400.0


async def test_a_question_overtakes_the_batches_of_an_upload() -> None:
    one = throttle(tokens_per_minute=600_000)
    served: list[str] = []

    async def batch(index: int) -> None:
        await take(one, tokens=3_000, lane=Lane.BULK)
        served.append(f"batch {index}")

    await take(one, tokens=60_000)
    batches = [asyncio.create_task(batch(index)) for index in range(6)]
    await asyncio.sleep(0)
    await take(one, tokens=100)
    served.append("question")
    await asyncio.gather(*batches)
    assert served.index("question") <= 1


async def test_who_leaves_the_line_lets_the_others_go_on() -> None:
    one = throttle(tokens_per_minute=600_000)
    await take(one, tokens=60_000)
    large = asyncio.create_task(take(one, tokens=40_000))
    await asyncio.sleep(0)
    small = asyncio.create_task(take(one, tokens=100))
    await asyncio.sleep(0)
    large.cancel()
    async with asyncio.timeout(2):
        await small
    with pytest.raises(asyncio.CancelledError):
        await large
