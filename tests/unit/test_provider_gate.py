"""When a call to a provider is made a second time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.providers import errors
from meshkit.providers.breakers import Breakers
from meshkit.providers.errors import BreakerOpen, ProviderError, Target
from meshkit.providers.gate import RETRY_LEAST_SECONDS, Gate, pause_before_retry
from meshkit.resilience.backoff import LONGEST_SECONDS, full_jitter
from meshkit.resilience.breaker import Policy

TARGET = Target("gemini", "m", "embed")


@given(st.integers(0, 1000), st.floats(0, 0.999))
def test_pauses_stay_between_nothing_and_their_limit(retries: int, chance: float) -> None:
    assert 0 <= full_jitter(retries, chance) < LONGEST_SECONDS


@pytest.mark.parametrize("kind", list(errors.KINDS.values()))
def test_only_what_may_be_gone_in_a_moment_is_tried_again(kind: type[ProviderError]) -> None:
    pause = pause_before_retry(kind(TARGET), 0, 60.0, chance=lambda: 0.5)
    assert (pause is not None) is kind.retryable
    assert pause_before_retry(kind(TARGET), 1, 60.0) is None
    assert pause_before_retry(kind(TARGET, retry_after=1.0), 0, 60.0) is None
    assert pause_before_retry(kind(TARGET), 0, RETRY_LEAST_SECONDS / 2) is None


async def test_the_second_try_is_the_last_and_its_error_is_told() -> None:
    gate, calls = Gate(TARGET, Breakers(Policy())), 0
    ends = asyncio.get_running_loop().time() + 30

    async def call() -> str:
        nonlocal calls
        calls += 1
        raise errors.Overloaded(TARGET)

    with pytest.raises(errors.Overloaded):
        await gate.retried(call, ends=ends)
    assert calls == 2


async def test_a_model_that_rests_is_not_called() -> None:
    gate = Gate(TARGET, Breakers(Policy()))

    def classify(error: Exception, target: Target) -> ProviderError:
        return errors.ServerFailed(target)

    for _ in range(2):
        with pytest.raises(errors.ServerFailed):
            async with gate.attempt(classify, tokens=1, seconds=1.0):
                raise RuntimeError
    assert gate.is_open
    with pytest.raises(BreakerOpen):
        async with gate.attempt(classify, tokens=1, seconds=1.0):
            pytest.fail("it was called")
