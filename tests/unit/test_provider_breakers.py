"""Which error of the taxonomy moves which breaker."""

from __future__ import annotations

import pytest

from meshkit.providers import errors
from meshkit.providers.breakers import Breakers
from meshkit.providers.errors import BreakerOpen, ProviderError, Target
from meshkit.resilience.breaker import Policy, State

EMBED = Target("gemini", "gemini-embedding-001", "embed")
WRITE = Target("gemini", "gemini-3.8-flash", "generate")
ACCOUNT = Target("gemini", "", "")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breakers(clock: Clock) -> Breakers:
    return Breakers(Policy(jitter=0.0), clock=clock, chance=lambda: 0.0)


def call(breakers: Breakers, target: Target, error: BaseException | None = None) -> None:
    with breakers.guard(target):
        if error is not None:
            raise error


def fail(breakers: Breakers, target: Target, error: type[ProviderError], **facts: float) -> None:
    with pytest.raises(error):
        call(breakers, target, error(target, **facts))  # type: ignore[arg-type]


def state(breakers: Breakers, target: Target) -> State:
    return next(line.view.state for line in breakers.lines() if line.target == target)


TWICE = [
    errors.Overloaded,
    errors.ServerFailed,
    errors.NetworkFailed,
    errors.StreamTruncated,
    errors.MalformedResponse,
    errors.RateLimited,
    errors.QuotaExhausted,
]


@pytest.mark.parametrize("error", TWICE)
def test_two_in_a_row_rest_the_model_and_leave_the_others_alone(
    breakers: Breakers, error: type[ProviderError]
) -> None:
    fail(breakers, WRITE, error)
    assert state(breakers, WRITE) is State.CLOSED
    fail(breakers, WRITE, error)
    with pytest.raises(BreakerOpen) as refused:
        call(breakers, WRITE)
    assert refused.value.retry_after
    call(breakers, EMBED)


def test_a_rejected_key_rests_everything_under_it_at_once(breakers: Breakers) -> None:
    fail(breakers, WRITE, errors.KeyRejected)
    with pytest.raises(BreakerOpen):
        call(breakers, EMBED)
    assert state(breakers, ACCOUNT) is State.OPEN
    assert state(breakers, WRITE) is State.CLOSED


@pytest.mark.parametrize("error", [errors.ContentBlocked, errors.InvalidRequest])
def test_a_request_that_is_refused_says_nothing_against_the_provider(
    breakers: Breakers, error: type[ProviderError]
) -> None:
    for _ in range(50):
        fail(breakers, WRITE, error)
    assert state(breakers, WRITE) is State.CLOSED


def test_every_kind_of_error_has_been_thought_of() -> None:
    thought_of = {*TWICE, errors.KeyRejected, errors.ContentBlocked, errors.InvalidRequest}
    thought_of |= {errors.AccountBlocked, errors.ModelUnknown, errors.TimedOut, BreakerOpen}
    assert set(errors.KINDS.values()) == thought_of


def test_a_hint_of_the_provider_is_the_time_it_rests(breakers: Breakers, clock: Clock) -> None:
    fail(breakers, WRITE, errors.RateLimited, retry_after=21.0)
    clock.now = 20.9
    with pytest.raises(BreakerOpen):
        call(breakers, WRITE)
    clock.now = 21.0
    call(breakers, WRITE)
    assert state(breakers, WRITE) is State.CLOSED


def test_a_caller_with_no_time_cannot_darken_a_provider(breakers: Breakers, clock: Clock) -> None:
    for _ in range(10):
        with pytest.raises(errors.TimedOut), breakers.guard(WRITE):
            clock.now += 0.05
            raise errors.TimedOut(WRITE)
    assert state(breakers, WRITE) is State.CLOSED
    for _ in range(2):
        with pytest.raises(errors.TimedOut), breakers.guard(WRITE):
            clock.now += 2.0
            raise errors.TimedOut(WRITE)
    assert state(breakers, WRITE) is State.OPEN


def test_a_probe_that_its_caller_gave_up_leaves_the_way_free(
    breakers: Breakers, clock: Clock
) -> None:
    for _ in range(2):
        fail(breakers, WRITE, errors.Overloaded)
    clock.now = 5.0
    with pytest.raises(KeyboardInterrupt):
        call(breakers, WRITE, KeyboardInterrupt())
    call(breakers, WRITE)
    assert state(breakers, WRITE) is State.CLOSED


def test_a_resting_model_does_not_hold_up_the_probe_of_its_account(
    breakers: Breakers, clock: Clock
) -> None:
    fail(breakers, WRITE, errors.QuotaExhausted, retry_after=90_000.0)
    fail(breakers, EMBED, errors.KeyRejected)
    clock.now += 400.0
    with pytest.raises(BreakerOpen):
        call(breakers, WRITE)
    call(breakers, EMBED)
    assert state(breakers, ACCOUNT) is State.CLOSED


def test_reset_closes_one_provider_or_all(breakers: Breakers) -> None:
    other = Target("cohere", "rerank-v4.0-fast", "rerank")
    for target in (WRITE, WRITE, other, other):
        fail(breakers, target, errors.Overloaded)
    assert breakers.is_open(WRITE)
    assert breakers.reset("cohere") == 1
    assert not breakers.is_open(other)
    assert breakers.reset() == 1
    call(breakers, WRITE)
