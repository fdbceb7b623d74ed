"""Holds the model against another run: does it foresee what was measured there?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from meshkit.capacity.measured import NOT_THE_MESH, Measured, Step
from meshkit.capacity.model import on_this_machine

WITHIN = 0.2
LEAST_CORES = 0.1
"""A step, or a service, that takes less is not judged: its seconds are few and mostly noise."""
LEAST_SHARE = 0.1
"""Of the mesh's cores, below which a service is not judged alone."""
ENOUGH_ANSWERS = 20
KEPT_UP = 0.97
"""A step that completed less of what was due was overloaded: its latency is its length."""

FULL = 0.95
"""Of the machine's cores: beyond this a queue has no mean that a step of seconds would reach, and
admission cuts it off."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure, foreseen and found."""

    step: str
    what: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Relative to what was measured."""
        return self.predicted / self.measured - 1 if self.measured else math.inf

    @property
    def holds(self) -> bool:
        """Whether it is near enough."""
        return abs(self.error) <= WITHIN


def compare(model: Measured, other: Measured) -> list[Comparison]:
    """Every figure of the other run that the model of this one foresees.

    Processor use of the mesh and of its large services, and the mean time of new answers, of
    each step that kept up with its load. What ran beside the mesh in the other run is given.
    """
    return [each for step in other.steps for each in _step(model, step)]


def _step(model: Measured, step: Step) -> Iterator[Comparison]:
    if step.mesh_cores < LEAST_CORES:
        return
    found = on_this_machine(model, step.per_second, step.other_cores)
    yield Comparison(step.name, "mesh, cores", sum(found.cores.values()), step.mesh_cores)
    for name, used in step.cores.items():
        large = used >= LEAST_CORES and used >= LEAST_SHARE * step.mesh_cores
        if name not in NOT_THE_MESH and large:
            yield Comparison(step.name, f"{name}, cores", found.cores.get(name, 0.0), used)
    kept_up = sum(step.per_second.values()) >= KEPT_UP * step.offered_per_second
    full = sum(found.cores.values()) + step.other_cores > FULL * model.cores
    if kept_up and not full and step.counts.get("answer", 0) >= ENOUGH_ANSWERS:
        yield Comparison(
            step.name, "new answers, mean s", found.mean_s["answer"], step.latency["answer"].mean
        )
