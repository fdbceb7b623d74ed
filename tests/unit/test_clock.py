"""The time a process goes by, while somebody sets the clock of its machine."""

from __future__ import annotations

import pytest

from meshkit.clock import AGREED_SECONDS, ALONE_SECONDS, LEEWAY_SECONDS, Clock, Doubt

HOUR = 3_600.0


class Machine:
    """A machine with a clock that somebody sets, and one that nobody can."""

    def __init__(self) -> None:
        self.running = 5_000.0
        self.true = 1_800_000_000.0
        self.off = 0.0

    def wall(self) -> float:
        return self.true + self.off

    def goes_on(self, seconds: float) -> None:
        self.true += seconds
        self.running += seconds


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def clock(machine: Machine) -> Clock:
    return Clock(machine.wall, lambda: machine.running)


def looked(clock: Clock, machine: Machine, seconds: float, authority_off: float | None) -> Doubt:
    """The last of a look a second; the authority's clock is so far from the true time."""
    found = Doubt.NONE
    for _ in range(int(seconds)):
        machine.goes_on(1)
        found = clock.look(None if authority_off is None else machine.true + authority_off)
    return found


@pytest.mark.parametrize("step", [HOUR, -HOUR])
@pytest.mark.parametrize("authority_off", [None, 0.0, HOUR, -HOUR])
def test_a_clock_that_is_wrong_for_some_seconds_reaches_nobody(
    clock: Clock, machine: Machine, step: float, authority_off: float | None
) -> None:
    machine.off = step
    looked(clock, machine, AGREED_SECONDS - 1, authority_off)
    assert clock.doubtful
    assert clock.now() == pytest.approx(machine.true)
    machine.off = 0.0
    assert looked(clock, machine, 1, authority_off) is Doubt.OVER
    assert clock.now() == pytest.approx(machine.true)
    assert not clock.doubtful


def test_a_clock_is_followed_soon_when_an_authority_has_the_new_time(
    clock: Clock, machine: Machine
) -> None:
    # A machine was paused for an hour; its own clock was not told.
    machine.true += HOUR
    assert looked(clock, machine, 1, 0.0) is Doubt.BEGUN
    assert looked(clock, machine, AGREED_SECONDS, 0.0) is Doubt.FOLLOWED
    assert clock.now() == pytest.approx(machine.true)


def test_a_clock_is_never_followed_while_an_authority_has_the_old_time(
    clock: Clock, machine: Machine
) -> None:
    machine.off = HOUR
    assert looked(clock, machine, HOUR, LEEWAY_SECONDS / 2) is Doubt.LASTING
    assert clock.now() == pytest.approx(machine.true)


@pytest.mark.parametrize("authority_off", [None, 3 * HOUR])
def test_without_an_authority_that_knows_a_clock_is_followed_when_it_stays(
    clock: Clock, machine: Machine, authority_off: float | None
) -> None:
    machine.off = HOUR
    assert looked(clock, machine, ALONE_SECONDS, authority_off) is Doubt.LASTING
    assert looked(clock, machine, 1, authority_off) is Doubt.FOLLOWED
    assert clock.now() == pytest.approx(machine.wall())


def test_a_clock_that_is_set_again_and_again_is_not_followed(
    clock: Clock, machine: Machine
) -> None:
    for minute in range(10):
        machine.off = HOUR * (1 + minute % 2)
        looked(clock, machine, ALONE_SECONDS - 1, None)
    assert clock.now() == pytest.approx(machine.true)


def test_a_clock_that_is_slewed_is_followed_all_the_time(clock: Clock, machine: Machine) -> None:
    for _ in range(1_000):
        machine.off += 0.5
        assert looked(clock, machine, 1, None) is Doubt.NONE
        assert clock.now() == pytest.approx(machine.wall())
