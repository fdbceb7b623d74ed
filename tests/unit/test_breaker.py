"""The breaker as a machine: every history it may live through, and its ladders to the second."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meshkit.resilience.breaker import Breaker, Fault, Pass, Policy, Refusal, State

POLICY = Policy(jitter=0.0)
MINUTE = 60.0
DAY = 86_400.0


def steady(policy: Policy = POLICY) -> Breaker:
    return Breaker(policy, chance=lambda: 0.0)


def admitted(breaker: Breaker, now: float) -> Pass:
    leave = breaker.admit(now)
    assert isinstance(leave, Pass), leave
    return leave


def fail(breaker: Breaker, now: float, fault: Fault, times: int = 1) -> None:
    for _ in range(times):
        breaker.failed(admitted(breaker, now), now, fault)


def test_two_quota_errors_in_a_row_open_it_for_five_minutes() -> None:
    breaker = steady()
    fail(breaker, 0.0, Fault.ACCOUNT)
    assert breaker.view(0.0).state is State.CLOSED
    fail(breaker, 1.0, Fault.ACCOUNT)
    refused = breaker.admit(2.0)
    assert refused == Refusal(retry_after=5 * MINUTE - 1)


def test_a_success_between_two_quota_errors_keeps_it_closed() -> None:
    breaker = steady()
    fail(breaker, 0.0, Fault.ACCOUNT)
    breaker.succeeded(admitted(breaker, 0.1), 0.1)
    fail(breaker, 0.2, Fault.ACCOUNT)
    assert breaker.view(0.2).state is State.CLOSED


def test_a_revoked_key_opens_it_at_the_first_error() -> None:
    breaker = steady()
    fail(breaker, 0.0, Fault.REVOKED)
    assert breaker.view(0.0).state is State.OPEN


def test_it_opens_until_the_reset_that_the_provider_names() -> None:
    breaker = steady()
    breaker.failed(admitted(breaker, 0.0), 0.0, Fault.ACCOUNT, until=7 * 3600.0)
    assert breaker.view(0.0).seconds_left == 7 * 3600.0
    breaker.failed(admitted(breaker, 7 * 3600.0), 7 * 3600.0, Fault.ACCOUNT)
    assert breaker.view(7 * 3600.0).seconds_left == POLICY.account_ladder[0]


def test_in_busy_traffic_only_the_rate_decides_about_transient_errors() -> None:
    breaker = steady()
    now = 0.0
    for index in range(200):
        now += 0.01
        leave = admitted(breaker, now)
        # Runs of three failures, yet a rate of 30 %.
        if index % 10 in (0, 1, 2) and index >= 30:
            breaker.failed(leave, now, Fault.TRANSIENT)
        else:
            breaker.succeeded(leave, now)
    assert breaker.view(now).state is State.CLOSED
    for _ in range(200):
        if breaker.view(now).state is not State.CLOSED:
            break
        now += 0.01
        fail(breaker, now, Fault.TRANSIENT)
    assert breaker.view(now).state is State.OPEN


def test_only_one_probe_goes_and_a_lost_one_is_replaced() -> None:
    breaker = steady()
    fail(breaker, 0.0, Fault.TRANSIENT, times=2)
    lost = admitted(breaker, 5.0)
    assert lost.probe
    assert breaker.admit(6.0) == Refusal(0.0)
    successor = admitted(breaker, 5.0 + POLICY.probe_seconds)
    breaker.succeeded(lost, 130.0)
    assert breaker.view(130.0).state is State.HALF_OPEN
    breaker.succeeded(successor, 130.0)
    assert breaker.view(130.0).state is State.CLOSED


def test_a_probe_whose_caller_went_away_lets_the_next_one_go_at_once() -> None:
    breaker = steady()
    fail(breaker, 0.0, Fault.TRANSIENT, times=2)
    breaker.abandoned(admitted(breaker, 5.0), 6.0)
    assert admitted(breaker, 6.0).probe


def test_late_failures_of_calls_from_before_do_not_escalate() -> None:
    breaker = steady()
    late = [admitted(breaker, 0.0) for _ in range(50)]
    for leave in late:
        breaker.failed(leave, 1.0, Fault.TRANSIENT)
    assert breaker.view(1.0).step == 1
    assert breaker.view(1.0).seconds_left == POLICY.transient_ladder[0]


def test_traffic_comes_back_on_a_ramp_and_one_lonely_call_is_not_refused() -> None:
    breaker = steady()
    fail(breaker, 0.0, Fault.TRANSIENT, times=2)
    breaker.succeeded(admitted(breaker, 5.0), 5.0)
    assert isinstance(breaker.admit(5.1), Pass)
    first, last = 0, 0
    for index in range(1_000):
        now = 5.1 + index * 0.01
        leave = breaker.admit(now)
        if isinstance(leave, Pass):
            breaker.succeeded(leave, now)
            first += now < 7.1
            last += now >= 13.1
    assert 20 <= first <= 60
    assert last >= 160
    assert all(isinstance(breaker.admit(15.2), Pass) for _ in range(10))


def test_a_provider_that_falls_over_on_the_ramp_waits_longer_than_before() -> None:
    breaker = steady()
    fail(breaker, 0.0, Fault.TRANSIENT, times=2)
    breaker.succeeded(admitted(breaker, 5.0), 5.0)
    for index in range(100):
        leave = breaker.admit(5.1 + index * 0.01)
        if isinstance(leave, Pass):
            breaker.failed(leave, 5.1 + index * 0.01, Fault.TRANSIENT)
        if breaker.view(6.0).state is State.OPEN:
            break
    assert breaker.view(6.0).step == 2


def test_reset_by_hand_closes_and_forgets() -> None:
    breaker = steady()
    fail(breaker, 0.0, Fault.ACCOUNT, times=2)
    breaker.reset()
    assert breaker.view(0.0) == steady().view(0.0)


def probes_of_a_day(fault: Fault, *, calls_per_second: float = 1.0) -> list[float]:
    """Times of the probes sent to a provider that is dead for a day."""
    breaker, probes, now = steady(), [], 0.0
    while now < DAY:
        leave = breaker.admit(now)
        if isinstance(leave, Pass):
            if leave.probe:
                probes.append(now)
            breaker.failed(leave, now, fault)
        now += 1 / calls_per_second
    return probes


def ladder_of_a_day(ladder: tuple[float, ...], begin: float) -> list[float]:
    """When the ladder says that probes go."""
    times, step = [], 0
    begin += ladder[0]
    while begin < DAY:
        times.append(begin)
        step = min(step + 1, len(ladder) - 1)
        begin += ladder[step]
    return times


def test_the_probes_of_a_day_of_outage_match_each_ladder_to_the_second() -> None:
    # The second call, at one second, opens it.
    account = probes_of_a_day(Fault.ACCOUNT)
    assert account == ladder_of_a_day(POLICY.account_ladder, 1.0)
    assert [round(t / MINUTE) for t in account] == [5, 20, 80, 260, 860]
    transient = probes_of_a_day(Fault.TRANSIENT)
    assert transient == ladder_of_a_day(POLICY.transient_ladder, 1.0)
    assert len(transient) == 28


@given(st.floats(0, 0.999), st.sampled_from(list(Fault)))
def test_jitter_only_ever_lengthens_a_cooldown_and_by_a_tenth_at_most(
    chance: float, fault: Fault
) -> None:
    breaker = Breaker(Policy(), chance=lambda: chance)
    fail(breaker, 0.0, fault)
    if breaker.view(0.0).state is State.CLOSED:
        fail(breaker, 0.0, fault)
    cooldown = Policy().ladder(fault)[0]
    assert cooldown <= breaker.view(0.0).seconds_left <= cooldown * 1.1


class Histories(RuleBasedStateMachine):
    """Any order of calls, outcomes and passing time."""

    @initialize(jitter=st.floats(0, 1))
    def begin(self, jitter: float) -> None:
        self.now = 0.0
        self.policy = Policy(jitter=0.2)
        self.breaker = Breaker(self.policy, chance=lambda: jitter)
        self.flying: list[Pass] = []
        self.probes = 0
        self.open_until = 0.0

    @rule(seconds=st.sampled_from([0.01, 0.5, 5.0, 60.0, 301.0, 4_000.0, 50_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def a_call(self) -> None:
        state = self.breaker.view(self.now).state
        left = self.breaker.view(self.now).seconds_left
        leave = self.breaker.admit(self.now)
        if isinstance(leave, Pass):
            assert not (state is State.OPEN and left > 0)
            assert leave.probe == (state is not State.CLOSED)
            self.flying.append(leave)
        else:
            assert leave.retry_after >= 0
            if left > 0:
                assert leave.retry_after == left

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), fault=st.sampled_from(list(Fault)))
    def a_failure(self, data: st.DataObject, fault: Fault) -> None:
        before = self.breaker.view(self.now)
        leave = self._landed(data)
        self.breaker.failed(leave, self.now, fault)
        after = self.breaker.view(self.now)
        if before.state is State.OPEN:
            assert after == before
        if after.state is State.OPEN and before.state is not State.OPEN:
            ladder = self.policy.ladder(fault)
            assert 1 <= after.step <= len(ladder)
            cooldown = ladder[after.step - 1]
            assert cooldown <= after.seconds_left + 1e-6
            assert after.seconds_left <= cooldown * 1.2 + 1e-6

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def a_success(self, data: st.DataObject) -> None:
        before = self.breaker.view(self.now).state
        self.breaker.succeeded(self._landed(data), self.now)
        after = self.breaker.view(self.now).state
        assert after is before or (before is State.HALF_OPEN and after is State.CLOSED)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def a_caller_goes_away(self, data: st.DataObject) -> None:
        self.breaker.abandoned(self._landed(data), self.now)

    @rule()
    def a_reset(self) -> None:
        self.breaker.reset()
        assert self.breaker.view(self.now).state is State.CLOSED

    def _landed(self, data: st.DataObject) -> Pass:
        return self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))

    @invariant()
    def a_second_probe_never_flies_in_time(self) -> None:
        if not hasattr(self, "breaker"):
            return
        view = self.breaker.view(self.now)
        assert (view.step == 0) or view.state is not State.CLOSED
        assert view.seconds_left == 0 or view.state is State.OPEN

    @invariant()
    def it_never_stays_dark_for_longer_than_its_ladder(self) -> None:
        if not hasattr(self, "breaker"):
            return
        longest = max(*self.policy.account_ladder, *self.policy.transient_ladder) * 1.2
        assert self.breaker.view(self.now).seconds_left <= longest


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
