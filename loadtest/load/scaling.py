"""The Universal Scalability Law, fitted to a ladder of closed loads. Pure.

X(N) = l N / (1 + s (N - 1) + k N (N - 1)) (Gunther, "Guerrilla Capacity Planning", 2007):
l is the throughput of one user, s contention (what queues), k coherence (what gets
slower because others work). N / X is linear in the three, so least squares find them.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.bench.statistics import percentile

RESAMPLES = 500


@dataclass(frozen=True, slots=True)
class Rung:
    """What a number of users got."""

    users: float
    per_second: Sequence[float]
    """Completions of each second."""

    @property
    def throughput(self) -> float:
        """Requests a second."""
        return sum(self.per_second) / max(1, len(self.per_second))


@dataclass(frozen=True, slots=True)
class Law:
    """One fit."""

    one_user: float
    contention: float
    coherence: float

    def at(self, users: float) -> float:
        """Throughput of so many users."""
        slower = 1 + self.contention * (users - 1) + self.coherence * users * (users - 1)
        return self.one_user * users / slower

    @property
    def best_users(self) -> float:
        """Users at the highest throughput; infinite when it only flattens out."""
        if self.coherence <= 0:
            return math.inf
        return math.sqrt(max(0.0, 1 - self.contention) / self.coherence)

    def most(self, up_to: float) -> float:
        """The highest throughput of at most so many users."""
        return self.at(max(1.0, min(self.best_users, up_to)))

    def knee_users(self, up_to: float) -> float:
        """X_max R_min: users at which the mesh would be full if nobody ever met (Kleinrock)."""
        return max(1.0, self.most(up_to) / self.one_user)


@dataclass(frozen=True, slots=True)
class Fit:
    """A law with 95 % intervals, and what follows from it."""

    law: Law
    intervals: dict[str, tuple[float, float]]
    """Of `one_user`, `contention`, `coherence`, `knee_users`, `knee_per_s`, `max_per_s`."""
    knee_users: float
    knee_per_s: float
    max_per_s: float
    r2: float


def solve(users: Sequence[float], throughput: Sequence[float]) -> Law:
    """The law nearest to the points in relative terms, with nothing negative.

    Raises:
        ValueError: fewer than three points with a throughput.
    """
    points = [(n, x) for n, x in zip(users, throughput, strict=True) if x > 0]
    if len(points) < 3:
        raise ValueError("a fit needs three rungs with answers")
    n = np.array([point[0] for point in points], dtype=float)
    x = np.array([point[1] for point in points], dtype=float)
    columns = np.stack([np.ones_like(n), n - 1, n * (n - 1)], axis=1) * (x / n)[:, None]
    best: tuple[float, Law] | None = None
    # Contention and coherence may not be negative: with two of them, trying which are
    # zero is simpler than a method for any number, and as exact.
    for kept in itertools.chain.from_iterable(
        itertools.combinations((1, 2), count) for count in range(3)
    ):
        chosen = [0, *kept]
        found, *_ = np.linalg.lstsq(columns[:, chosen], np.ones_like(n), rcond=None)
        values = np.zeros(3)
        values[chosen] = found
        if values[0] <= 0 or values.min() < 0:
            continue
        error = float(np.sum((columns @ values - 1) ** 2))
        a, b, c = (float(value) for value in values)
        law = Law(1 / a, b / a, c / a)
        if best is None or error < best[0] - 1e-12:
            best = (error, law)
    assert best is not None  # the fit with one free value is never negative
    return best[1]


def fit(rungs: Sequence[Rung], seed: int = 7) -> Fit:
    """The law of a ladder, its intervals by drawing each rung's seconds again.

    Raises:
        ValueError: fewer than three rungs with answers.
    """
    users = [rung.users for rung in rungs]
    most = max(users)
    law = solve(users, [rung.throughput for rung in rungs])
    chance = random.Random(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(RESAMPLES):
        again = [
            sum(chance.choices(rung.per_second, k=len(rung.per_second))) / len(rung.per_second)
            for rung in rungs
        ]
        try:
            values = _values(solve(users, again), most)
        except ValueError:
            continue
        for name, value in values.items():
            drawn.setdefault(name, []).append(value)
    intervals = {name: _interval(values) for name, values in drawn.items()}
    values = _values(law, most)
    return Fit(
        law,
        intervals,
        values["knee_users"],
        values["knee_per_s"],
        values["max_per_s"],
        _r2(law, rungs),
    )


def _values(law: Law, most: float) -> dict[str, float]:
    knee = law.knee_users(most)
    return {
        "one_user": law.one_user,
        "contention": law.contention,
        "coherence": law.coherence,
        "knee_users": knee,
        "knee_per_s": law.at(knee),
        "max_per_s": law.most(most),
    }


def _interval(values: list[float]) -> tuple[float, float]:
    return percentile(values, 0.025), percentile(values, 0.975)


def _r2(law: Law, rungs: Sequence[Rung]) -> float:
    found = [rung.throughput for rung in rungs]
    mean = sum(found) / len(found)
    around = sum((value - mean) ** 2 for value in found)
    left = sum((rung.throughput - law.at(rung.users)) ** 2 for rung in rungs)
    return 1 - left / around if around else 1.0
