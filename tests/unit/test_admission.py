"""Who is let in, who waits and who is turned away: rules that hold whatever comes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest import overload_simulation
from meshkit import deadline
from meshkit.admission import Admission, CallAdmission
from meshkit.errors import Busy
from meshkit.resilience.admission import Kind, Limiter, Policy, Ticket

SEARCH = Kind("search", target_seconds=0.5)
ANSWER = Kind("answer", cost=8.0, share=0.9, target_seconds=1.0, held=0.125)
BULK = Kind("bulk", cost=0.0, share=0.5, at_once=3)
KINDS = (SEARCH, ANSWER, BULK)
EVENTS = ("arrive", "arrive", "leave", "lighten", "observe", "withdraw")
PATIENT = Policy(1.0, patience_seconds=60.0, short_patience_seconds=60.0)


@settings(max_examples=50)
@given(st.data())
def test_what_is_in_use_never_passes_the_limit_and_nobody_is_forgotten(data: st.DataObject) -> None:
    limiter = Limiter(KINDS, Policy(80.0, least=8.0, start=40.0, waiting=10), 0.0)
    now, inside, waiting = 0.0, list[tuple[Kind, bool]](), set[Ticket]()

    def let_in(tickets: list[Ticket]) -> None:
        for ticket in tickets:
            waiting.remove(ticket)
            inside.append((ticket.kind, False))

    for _ in range(data.draw(st.integers(1, 60))):
        now += data.draw(st.floats(0.0, 0.5))
        before, limit = limiter.in_use, limiter.limit
        match data.draw(st.sampled_from(EVENTS)):
            case "arrive":
                kind = data.draw(st.sampled_from(KINDS))
                if limiter.enter(kind):
                    inside.append((kind, False))
                elif ticket := limiter.wait(kind, now):
                    waiting.add(ticket)
            case "leave" if inside:
                kind, light = inside.pop(data.draw(st.integers(0, len(inside) - 1)))
                let_in(limiter.leave(kind, now, light=light))
            case "lighten" if inside and not inside[-1][1]:
                kind = inside[-1][0]
                inside[-1] = (kind, True)
                let_in(limiter.lighten(kind, now))
            case "observe" if inside:
                let_in(limiter.observe(inside[0][0], data.draw(st.floats(0.0, 5.0)), now))
            case "withdraw" if waiting:
                ticket = min(waiting, key=lambda one: one.until)
                waiting.remove(ticket)
                let_in(limiter.withdraw(ticket, now))
        assert limiter.in_use == sum(
            kind.cost * (kind.held if light else 1) for kind, light in inside
        )
        assert 8.0 <= limiter.limit <= 80.0
        # A limit that was lowered takes nobody's place away; it lets nobody in.
        if limiter.in_use > before and before:
            assert limiter.in_use <= max(limit, limiter.limit)
        assert sum(kind is BULK for kind, _ in inside) <= 3
        assert len(limiter) == len(waiting) <= 10
    # When everybody has gone, everybody who waited has had a turn.
    everybody_leaves(limiter, inside, let_in)
    assert not waiting
    assert not limiter.in_use


def everybody_leaves(
    limiter: Limiter,
    inside: list[tuple[Kind, bool]],
    let_in: Callable[[list[Ticket]], None],
) -> None:
    while inside:
        kind, light = inside.pop()
        let_in(limiter.leave(kind, 1e6, light=light))


def test_bulk_goes_first_then_answers_then_searches() -> None:
    limiter = Limiter(KINDS, Policy(100.0, adaptive=False), 0.0)
    shed = {kind.name: 0.0 for kind in KINDS}
    while not all(shed.values()):
        for kind in KINDS:
            if not shed[kind.name] and not limiter.enter(kind):
                shed[kind.name] = limiter.in_use
            elif kind is BULK and not shed["bulk"]:
                limiter.leave(BULK, 0.0)
    assert shed["bulk"] < shed["answer"] < shed["search"] == 100.0


def test_an_answer_that_waits_holds_up_no_search_and_lets_no_bulk_past() -> None:
    limiter = Limiter(KINDS, Policy(20.0, adaptive=False), 0.0)
    assert limiter.enter(ANSWER)
    assert limiter.enter(ANSWER)
    waiting = limiter.wait(ANSWER, 0.0) if not limiter.enter(ANSWER) else None
    assert waiting is not None
    assert limiter.enter(SEARCH)
    assert not limiter.enter(BULK)
    assert limiter.leave(ANSWER, 0.1) == [waiting]


def test_the_longest_waiting_goes_first_until_it_is_no_burst_any_more() -> None:
    policy = Policy(1.0, adaptive=False, patience_seconds=0.5, short_patience_seconds=0.2)
    limiter = Limiter((SEARCH,), policy, 0.0)
    assert limiter.enter(SEARCH)
    first, second, third = (limiter.wait(SEARCH, at) for at in (0.0, 0.1, 0.2))
    assert limiter.leave(SEARCH, 0.3) == [first]
    # Somebody has been waiting for more than half a second: the newest, and short patience.
    late = limiter.wait(SEARCH, 0.7)
    assert late is not None
    assert late.until == pytest.approx(0.9)
    assert limiter.leave(SEARCH, 0.75) == [late]
    assert second is not None
    assert third is not None
    assert [second.until, third.until] == [pytest.approx(0.6), pytest.approx(0.7)]


def test_a_stream_that_only_waits_for_its_own_number_holds_up_nobody() -> None:
    watch = Kind("watch", cost=0.0, share=float("inf"), at_once=1)
    limiter = Limiter((watch, SEARCH), Policy(1.0, adaptive=False), 0.0)
    assert limiter.enter(watch)
    assert limiter.wait(watch, 0.0) is not None
    assert limiter.enter(SEARCH)
    waiting = limiter.wait(SEARCH, 0.0)
    assert limiter.leave(SEARCH, 0.1) == [waiting]


def answers(limiter: Limiter, seconds: float, at: float) -> float:
    """A window of answers that took so long, with the limit used up; its end."""
    while limiter.enter(ANSWER):
        pass
    for _ in range(10):
        at += 0.06
        limiter.observe(ANSWER, seconds, at)
    return at


@given(st.integers(0, 1_000_000))
def test_the_limit_falls_while_answers_are_late_and_rises_while_they_are_not(seed: int) -> None:
    chance = random.Random(seed)
    limiter = Limiter(KINDS, Policy(800.0, least=8.0, start=80.0), 0.0)
    now = 0.0
    for _ in range(10):
        before, late = limiter.limit, chance.random() < 0.5
        now = answers(limiter, chance.uniform(1.05, 9.0) if late else chance.uniform(0, 0.95), now)
        if late:
            assert limiter.limit < before or limiter.limit == 8.0
        else:
            assert limiter.limit > before or limiter.limit == 800.0


def test_a_limit_that_nobody_meets_does_not_rise() -> None:
    limiter = Limiter(KINDS, Policy(800.0, start=80.0), 0.0)
    for number in range(100):
        assert limiter.enter(SEARCH)
        limiter.observe(SEARCH, 0.01, 0.1 * number)
        limiter.leave(SEARCH, 0.1 * number)
    assert limiter.limit == 80.0


@pytest.mark.parametrize("seed", range(2))
def test_at_three_times_the_knee_as_much_is_done_as_at_the_knee(seed: int) -> None:
    policy = overload_simulation.POLICIES["adaptive"]
    capacity = overload_simulation.CAPACITY
    done = [overload_simulation.run(load * capacity, policy, seed=seed) for load in (0.8, 1, 2, 3)]
    assert done[-1].work >= 0.9 * max(outcome.work for outcome in done)
    assert done[-1].p99 <= 1.25 * overload_simulation.SLO_SECONDS
    taking_all = overload_simulation.run(
        3 * capacity, overload_simulation.POLICIES["500 at once"], seed=seed
    )
    assert taking_all.work < 0.5 * done[-1].work


async def test_who_waits_gets_the_place_of_who_leaves() -> None:
    admission = Admission((SEARCH,), PATIENT)
    place = await admission.enter(SEARCH)
    waiting = asyncio.ensure_future(admission.enter(SEARCH))
    await asyncio.sleep(0)
    place.leave()
    place.leave()
    (await waiting).leave()
    (await admission.enter(SEARCH)).leave()


async def test_an_answer_whose_text_comes_leaves_most_of_its_place_to_others() -> None:
    admission = Admission((ANSWER,), replace(PATIENT, most=12.0))
    first = await admission.enter(ANSWER)
    second = asyncio.ensure_future(admission.enter(ANSWER))
    await asyncio.sleep(0)
    assert not second.done()
    first.written()
    first.written()
    (await second).written()
    third = await admission.enter(ANSWER)
    for place in (first, second.result(), third):
        place.leave()
    (await admission.enter(ANSWER)).leave()


async def test_who_goes_away_while_waiting_keeps_no_place() -> None:
    admission = Admission((SEARCH,), PATIENT)
    place = await admission.enter(SEARCH)
    gone, granted = (asyncio.ensure_future(admission.enter(SEARCH)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    place.leave()
    # The place is its already; it is cancelled before it could see that.
    granted.cancel()
    await asyncio.gather(granted, return_exceptions=True)
    (await admission.enter(SEARCH)).leave()


async def test_who_waits_in_vain_is_told_when_to_come_back() -> None:
    admission = Admission((SEARCH,), Policy(1.0, patience_seconds=0.01))
    await admission.enter(SEARCH)
    with pytest.raises(Busy) as refused:
        await admission.enter(SEARCH)
    assert (refused.value.reason, refused.value.http_status) == ("SERVICE_BUSY", 503)
    assert refused.value.retry_after is not None
    assert 1.0 <= refused.value.retry_after <= 4.0


async def test_nobody_waits_longer_than_its_caller_does() -> None:
    admission = Admission((SEARCH,), PATIENT)
    await admission.enter(SEARCH)
    with deadline.within(0.01), pytest.raises(Busy):
        async with asyncio.timeout(30):
            await admission.enter(SEARCH)


async def test_a_service_tells_bulk_and_watches_from_calls_by_their_names() -> None:
    admission = CallAdmission(4, 1, adaptive=True)
    for name in ("IndexChunks", "GetDocument", "WatchDocument"):
        admission.register(f"/x.Service/{name}")
    async with asyncio.timeout(30):
        for _ in range(2):
            await admission.enter("/x.Service/IndexChunks")
        with pytest.raises(Busy):
            await admission.enter("/x.Service/IndexChunks")
        for _ in range(2):
            await admission.enter("/x.Service/GetDocument")
        await admission.enter("/x.Service/WatchDocument")
        with pytest.raises(Busy):
            await admission.enter("/x.Service/WatchDocument")


async def served_after(
    monkeypatch: pytest.MonkeyPatch, seconds: float, *, excused: float = 0.0
) -> int:
    """Searches let in at once after 200, one after the other, that took so long."""
    now = 0.0
    monkeypatch.setattr("meshkit.admission.time", SimpleNamespace(monotonic=lambda: now))
    admission = CallAdmission(100, 0, adaptive=True)
    admission.register("/x.Service/Search")
    for _ in range(200):
        place = await admission.enter("/x.Service/Search")
        place.excuse(excused)
        now += seconds
        place.answered()
        place.leave()
    served = 0
    with pytest.raises(Busy):
        while served <= 100:
            await admission.enter("/x.Service/Search")
            served += 1
    return served


async def test_a_service_whose_helper_is_dead_does_not_stop_working(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A search that waits for a frozen cross-encoder is late without any load."""
    assert await served_after(monkeypatch, 9.0) == 8


@pytest.mark.parametrize(("excused", "served"), [(0.0, 8), (1.0, 16)])
async def test_what_somebody_else_takes_first_is_no_sign_of_load(
    monkeypatch: pytest.MonkeyPatch, excused: float, served: int
) -> None:
    assert await served_after(monkeypatch, 1.5, excused=excused) == served
