"""The scenarios by name: how the load goes over time, and what happens meanwhile. Pure.

Load is a share of the knee, which each run measures first: 1 is as many requests a
second as the mesh carries before it queues. So a scenario says the same on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Step:
    """A stretch of load; from `begins` to `ends` it goes in a straight line."""

    name: str
    seconds: float
    begins: float
    ends: float
    fault: str = ""
    """What goes wrong when the step begins: `primary_provider`; `none` mends it."""
    documents: int = 0
    """That arrive besides, spread over the step."""
    neighbour: float = 0.0
    """Load of another project, as a share of the knee."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One named course of load."""

    name: str
    about: str
    steps: tuple[Step, ...]
    at_rest: str
    """Step whose quality and latency the others are compared with."""
    at_peak: str
    """Step that the report's first numbers are about."""
    filler: int = 400
    """Documents in the corpus besides the topics."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """What is measured before the scenario: demands of single kinds, and the knee."""

    users: tuple[int, ...]
    rung_seconds: float
    demand_seconds: float


FULL = Preparation((1, 2, 4, 8, 16, 24, 32, 48, 64, 96), 30.0, 30.0)
SHORT = Preparation((1, 4, 8, 16, 32, 64), 7.0, 6.0)
SHORT_FILLER = 40


def flat(name: str, seconds: float, load: float, **more: object) -> Step:
    """A step of one load."""
    return replace(Step(name, seconds, load, load), **more)  # type: ignore[arg-type]


def _ramp(seconds: float) -> tuple[Step, ...]:
    shares = (0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.4)
    return tuple(flat(f"{share:.0%} of the knee", seconds, share) for share in shares)


def _peak(rest: float, rise: float, hold: float, over: float) -> tuple[Step, ...]:
    return (
        flat("rest", rest, 0.09),
        Step("rise to 10x", rise, 0.09, 0.9),
        flat("peak", hold, 0.9),
        Step("fall", rise, 0.9, 0.09),
        flat("rest again", rest, 0.09),
        flat("3x the knee", over, 3.0),
        flat("after", rest, 0.09),
    )


def _outage(calm: float, lost: float) -> tuple[Step, ...]:
    return (
        flat("rest", calm, 0.2),
        flat("peak", calm, 0.8),
        flat("primary provider gone", lost, 0.8, fault="primary_provider"),
        flat("provider back", calm, 0.8, fault="none"),
    )


def _neighbour(seconds: float) -> tuple[Step, ...]:
    return (
        flat("alone", seconds, 0.3),
        flat("noisy neighbour", seconds, 0.3, neighbour=1.5),
        flat("alone again", seconds, 0.3),
    )


def _storm(calm: float, storm: float, documents: int) -> tuple[Step, ...]:
    return (
        flat("rest", calm, 0.4),
        flat("upload storm", storm, 0.4, documents=documents),
        flat("afterwards", calm, 0.4),
    )


_STEADY = "Half of the knee, for as long as a working morning takes to show."
_RAMP = "From a tenth of the knee to beyond it, step by step."
_PEAK = "A sale day: ten times the load within two minutes, held, and back; then three knees."
_SOAK = "Half of the knee for hours: what grows that should not."
_STORM = "Questions while documents arrive by the thousand."
_OUTAGE = "The preferred provider dies at the peak, and comes back."
_NEIGHBOUR = "Another project asks for more than there is."

SCENARIOS: dict[str, tuple[Scenario, Scenario]] = {
    found.name: (found, replace(short, filler=SHORT_FILLER))
    for found, short in (
        (
            Scenario("steady", _STEADY, (flat("rest", 120, 0.1), flat("steady", 900, 0.5)),
                     "rest", "steady"),
            Scenario("steady", _STEADY, (flat("rest", 10, 0.1), flat("steady", 40, 0.5)),
                     "rest", "steady"),
        ),
        (
            Scenario("ramp", _RAMP, _ramp(120), "10% of the knee", "90% of the knee"),
            Scenario("ramp", _RAMP, _ramp(12), "10% of the knee", "90% of the knee"),
        ),
        (
            Scenario("peak", _PEAK, _peak(180, 120, 600, 120), "rest", "peak"),
            Scenario("peak", _PEAK, _peak(12, 10, 30, 15), "rest", "peak"),
        ),
        (
            Scenario("soak", _SOAK, (flat("rest", 120, 0.1), flat("soak", 4 * 3600, 0.5)),
                     "rest", "soak"),
            Scenario("soak", _SOAK, (flat("rest", 10, 0.1), flat("soak", 60, 0.5)),
                     "rest", "soak"),
        ),
        (
            Scenario("upload_storm", _STORM, _storm(120, 300, 1000), "rest", "upload storm"),
            Scenario("upload_storm", _STORM, _storm(12, 30, 60), "rest", "upload storm"),
        ),
        (
            Scenario("outage", _OUTAGE, _outage(120, 180), "rest", "primary provider gone"),
            Scenario("outage", _OUTAGE, _outage(12, 25), "rest", "primary provider gone"),
        ),
        (
            Scenario("noisy_neighbour", _NEIGHBOUR, _neighbour(180), "alone", "noisy neighbour"),
            Scenario("noisy_neighbour", _NEIGHBOUR, _neighbour(20), "alone", "noisy neighbour"),
        ),
    )
}  # fmt: skip


def scenario(name: str, *, short: bool) -> Scenario:
    """A scenario by name.

    Raises:
        KeyError: there is none of this name.
    """
    return SCENARIOS[name][1 if short else 0]


def rate_at(steps: Sequence[Step], seconds: float) -> float:
    """The load at a moment after the beginning, as a share of the knee; 0 after the end."""
    for step in steps:
        if seconds < step.seconds:
            return step.begins + (step.ends - step.begins) * seconds / step.seconds
        seconds -= step.seconds
    return 0.0
