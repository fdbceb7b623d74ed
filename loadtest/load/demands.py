"""What one request of each class costs each service, from what many of them cost together. Pure.

The service demand law says demand = busy time / completions. With several classes at once it
is a system of linear equations over the steps of a run, solved here by least squares with
nothing negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from meshkit.capacity.model import ALONE, ANSWER, calm

ROUNDS = 2000


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a run."""

    seconds: float
    completed: Mapping[str, float]
    """By class of request."""
    cpu: Mapping[str, float]
    """Processor seconds by service."""
    busy: float = 1.0
    """Share of the machine's cores that was in use, whoever used them."""

    @property
    def counts(self) -> dict[str, float]:
        """What was completed, and how much of it nearly alone; see `meshkit.capacity.model`."""
        alone = self.completed.get(ANSWER, 0.0) * calm(self.busy)
        return {**self.completed, ALONE: alone}


def demands(windows: Sequence[Window], idle: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Processor seconds of one request, by class and service.

    Args:
        windows: At least as many as there are classes, with different mixes.
        idle: Cores that each service takes without any request.
    """
    classes = sorted({name for window in windows for name in window.counts})
    services = sorted({name for window in windows for name in window.cpu})
    counts = np.array([[w.counts.get(name, 0.0) for name in classes] for w in windows])
    found: dict[str, dict[str, float]] = {name: {} for name in classes}
    for service in services:
        busy = np.array(
            [
                max(0.0, w.cpu.get(service, 0.0) - idle.get(service, 0.0) * w.seconds)
                for w in windows
            ]
        )
        # A long busy window says more than a short quiet one, but not as much more as its size.
        weights = 1 / np.sqrt(busy + 0.05)
        values = nonnegative(counts * weights[:, None], busy * weights)
        for name, value in zip(classes, values, strict=True):
            found[name][service] = float(value)
    return found


def nonnegative(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The x >= 0 nearest to a x = b, by coordinate descent."""
    gram, right = a.T @ a, a.T @ b
    x = np.zeros(a.shape[1])
    for _ in range(ROUNDS):
        before = x.copy()
        for column in range(len(x)):
            if gram[column, column] > 0:
                slope = right[column] - gram[column] @ x
                x[column] = max(0.0, x[column] + slope / gram[column, column])
        if np.abs(x - before).max() < 1e-9:
            break
    return x
