"""Quotas that are never overrun, and turns that starve nobody."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from meshkit.resilience.rate import MINUTE, Bucket, DayCount, Lane, Turns

WEIGHTS = ((Lane.QUESTION, 10.0), (Lane.BULK, 1.0))


@settings(max_examples=60, deadline=None)
@given(
    quota=st.floats(10, 1e6),
    amounts=st.lists(st.floats(0.001, 0.1), min_size=1, max_size=80),
    pauses=st.lists(st.floats(0, 30), min_size=80, max_size=80),
)
def test_no_minute_holds_more_than_the_quota(
    quota: float, amounts: list[float], pauses: list[float]
) -> None:
    bucket, now, taken = Bucket(quota, 0.0), 0.0, []
    for share, pause in zip(amounts, pauses, strict=False):
        now += pause
        amount = share * quota
        now += bucket.wait(amount, now)
        bucket.take(amount, now)
        taken.append((now, amount))
    for begin, _ in taken:
        within = sum(amount for at, amount in taken if begin <= at < begin + MINUTE)
        assert within <= quota * (1 + 1e-6)


def test_a_wait_is_long_enough_and_not_longer() -> None:
    bucket = Bucket(600, 0.0)
    bucket.take(60, 0.0)
    wait = bucket.wait(9, 0.0)
    assert wait == 1.0
    assert bucket.wait(9, wait) == 0.0


def test_a_request_larger_than_the_bucket_goes_when_it_is_full_and_is_paid_off() -> None:
    bucket = Bucket(600, 0.0)
    assert bucket.wait(300, 0.0) == 0.0
    bucket.take(300, 0.0)
    assert bucket.wait(1, 0.0) > 20


def test_what_was_not_used_comes_back() -> None:
    bucket = Bucket(600, 0.0)
    bucket.take(60, 0.0)
    bucket.give_back(30, 0.0)
    assert bucket.wait(30, 0.0) == 0.0


def test_a_day_ends_where_the_provider_says() -> None:
    pacific = 8 * 3600.0
    count = DayCount(2, offset=pacific)
    begin = 20 * 86_400.0 + pacific
    for _ in range(2):
        assert count.wait(begin + 60) == 0.0
        count.take(begin + 60)
    assert count.wait(begin + 60) == 86_400 - 60
    assert count.wait(begin + 86_400) == 0.0


def test_a_question_comes_before_ten_batches_of_an_upload() -> None:
    turns: Turns[str] = Turns(WEIGHTS)
    for index in range(30):
        turns.add(Lane.BULK, "a", f"batch {index}")
        turns.add(Lane.QUESTION, "b", f"question {index}")
    order = [turns.pop() for _ in range(33)]
    batches = [index for index, name in enumerate(order) if name.startswith("batch")]
    assert len(batches) in (3, 4)
    assert max(b - a for a, b in pairwise(batches)) == 11


def test_projects_of_a_lane_take_turns() -> None:
    turns: Turns[str] = Turns(WEIGHTS)
    for index in range(100):
        turns.add(Lane.BULK, "big", f"big {index}")
    turns.add(Lane.BULK, "small", "small")
    assert "small" in [turns.pop() for _ in range(2)]


def test_a_lane_that_was_idle_has_saved_up_no_turns() -> None:
    turns: Turns[str] = Turns(WEIGHTS)
    for index in range(500):
        turns.add(Lane.QUESTION, "a", f"question {index}")
    for _ in range(400):
        turns.pop()
    for index in range(50):
        turns.add(Lane.BULK, "b", f"batch {index}")
    order = [turns.pop() for _ in range(22)]
    assert sum(name.startswith("batch") for name in order) <= 3


@given(st.lists(st.tuples(st.sampled_from(list(Lane)), st.sampled_from("abc")), max_size=60))
def test_everybody_is_served_once_and_a_project_in_its_order(
    arrivals: list[tuple[Lane, str]],
) -> None:
    turns: Turns[tuple[Lane, str, int]] = Turns(WEIGHTS)
    for index, (lane, project) in enumerate(arrivals):
        turns.add(lane, project, (lane, project, index))
    assert len(turns) == len(arrivals)
    order = []
    while (upcoming := turns.next()) is not None:
        assert turns.pop() == upcoming
        order.append(upcoming)
    assert sorted(order) == sorted((a, p, i) for i, (a, p) in enumerate(arrivals))
    for lane in Lane:
        for project in "abc":
            mine = [i for a, p, i in order if (a, p) == (lane, project)]
            assert mine == sorted(mine)


def test_who_stopped_waiting_is_not_served() -> None:
    turns: Turns[str] = Turns(WEIGHTS)
    turns.add(Lane.BULK, "a", "gone")
    turns.remove(Lane.BULK, "a", "gone")
    turns.remove(Lane.BULK, "a", "gone")
    assert turns.next() is None
