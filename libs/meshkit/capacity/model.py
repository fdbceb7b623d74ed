"""Predicts processor use and latency: of one machine that everything shares, or of a cluster.

A request of class c needs the processor for D(c, k) seconds in service k, and waits elsewhere
(providers, timers) for the rest of the time it takes when it is alone. Under load only the
processor's share grows:

    R(c) = wait(c) + sum over k of D(c, k) stretch(k)

A Python service is one event loop: it uses one core at most, and its requests queue for it
(M/M/1 a replica, because round robin does not look who is free). Postgres uses all of its
cores (M/M/n).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from meshkit.capacity.measured import Measured
from meshkit.capacity.queueing import TAIL, stretch

MANY_PROCESSES = frozenset({"postgres"})
"""Services whose one instance uses several cores."""


ANSWER = "answer"
ALONE = "answer_alone"
"""What a new answer takes more where nothing else is done, as if it were a class of its own: its
text comes in more pieces then, and what is done together under load is done one by one."""
BUSY = 0.6
"""Most of a replica that is used on an ordinary day."""
ROUNDS = 8
"""Until the use of the cores and what depends on it agree."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a load would do."""

    cores: Mapping[str, float]
    """By service; idling included."""
    mean_s: Mapping[str, float]
    """By class of request; infinite when something is overloaded."""
    p95_s: Mapping[str, float]


def calm(busy: float) -> float:
    """How far an answer is alone, 0 to 1, from the share of the cores that is in use.

    The square foresaw other runs best (docs/capacity.md).
    """
    return (1.0 - min(1.0, busy)) ** 2


def cores_of(
    measured: Measured, per_second: Mapping[str, float], busy: float = 1.0
) -> dict[str, float]:
    """Utilisation law: cores that each service takes for so many requests of each class.

    Args:
        measured: The report.
        per_second: Requests by class.
        busy: Share of the cores that is in use; see `calm`.
    """
    used = dict(measured.idle)
    rates = {**per_second, ALONE: per_second.get(ANSWER, 0.0) * calm(busy)}
    for name, rate in rates.items():
        for service, demand in measured.demands.get(name, {}).items():
            used[service] = used.get(service, 0.0) + rate * demand
    return used


def waiting(measured: Measured, name: str) -> float:
    """Seconds of a class that no processor of the mesh works on, from its latency at rest."""
    rest = measured.rest
    stretches = _shared(measured, rest.per_second, rest.other_cores)
    return max(0.0, measured.rest_latency[name].mean - _working(measured.demands[name], stretches))


def on_this_machine(
    measured: Measured, per_second: Mapping[str, float], other_cores: float
) -> Prediction:
    """On the machine of the report, where all services and the load share the cores.

    Args:
        measured: The report.
        per_second: Requests by class.
        other_cores: Cores that something else takes meanwhile.
    """
    stretches = _shared(measured, per_second, other_cores)
    return _prediction(measured, _settled(measured, per_second, other_cores), stretches)


def _settled(
    measured: Measured, per_second: Mapping[str, float], other_cores: float
) -> dict[str, float]:
    """Cores by service on the machine of the report, which depend on how busy it is."""
    busy, cores = 0.5, dict[str, float]()
    for _ in range(ROUNDS):
        cores = cores_of(measured, per_second, busy)
        busy = (sum(cores.values()) + other_cores) / measured.cores
    return cores


def on_a_cluster(
    measured: Measured, per_second: Mapping[str, float], servers: Mapping[str, int]
) -> Prediction:
    """With a core for each replica, and so many cores for Postgres.

    Args:
        measured: The report.
        per_second: Requests by class.
        servers: Replicas by service; cores of Postgres.
    """
    cores = cores_of(measured, per_second, BUSY)
    stretches = {
        name: stretch(count, cores.get(name, 0.0) / count)
        if name in MANY_PROCESSES
        else stretch(1, cores.get(name, 0.0) / count)
        for name, count in servers.items()
    }
    return _prediction(measured, cores, stretches)


def _prediction(
    measured: Measured, cores: Mapping[str, float], stretches: Mapping[str, float]
) -> Prediction:
    mean: dict[str, float] = {}
    p95: dict[str, float] = {}
    for name, latency in measured.rest_latency.items():
        if name not in measured.demands:
            continue
        mean[name] = waiting(measured, name) + _working(measured.demands[name], stretches)
        # What comes on top of the time at rest is a wait, taken as exponential.
        p95[name] = latency.p95 + max(0.0, mean[name] - latency.mean) * TAIL
    return Prediction(cores, mean, p95)


def _working(demand: Mapping[str, float], stretches: Mapping[str, float]) -> float:
    return sum(seconds * stretches.get(name, 1.0) for name, seconds in demand.items())


def _shared(
    measured: Measured, per_second: Mapping[str, float], other_cores: float
) -> dict[str, float]:
    """Stretch of each service where cores are shared: the wait for a core, and for its own loop.

    They add up. A loop that waits for a core is not slower by as much for its own queue: the
    scheduler gives short work its turn first.
    """
    cores = _settled(measured, per_second, other_cores)
    busy = (sum(cores.values()) + other_cores) / measured.cores
    machine = stretch(measured.cores, busy)
    if math.isinf(machine):
        return dict.fromkeys(cores, math.inf)
    return {
        name: machine if name in MANY_PROCESSES else machine + stretch(1, used) - 1
        for name, used in cores.items()
    }


def most_on_this_machine(measured: Measured, mix: Mapping[str, float]) -> tuple[float, str]:
    """Requests a second of a mix at which this machine is full, and what fills first."""
    cores = cores_of(measured, mix)
    for name, used in measured.idle.items():
        cores[name] = cores.get(name, 0.0) - used
    idle = sum(measured.idle.values())
    total = sum(cores.values())
    full = (measured.cores - idle) / total if total else math.inf
    found = (full, "the processor")
    for name, used in cores.items():
        if name not in MANY_PROCESSES and used > 0:
            alone = (1 - measured.idle.get(name, 0.0)) / used
            found = min(found, (alone, f"one event loop of {name}"))
    return found
