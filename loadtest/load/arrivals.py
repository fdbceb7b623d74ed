"""When requests are due in an open model: a Poisson process whose rate follows a step. Pure.

Arrivals do not wait for answers. A closed client stops asking while the mesh is slow and
so leaves out just the requests that would have been slow ("coordinated omission").
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator


def arrivals(seconds: float, begins: float, ends: float, chance: random.Random) -> Iterator[float]:
    """Seconds after the beginning at which requests are due, in order.

    Args:
        seconds: Length of the stretch.
        begins: Requests a second at its beginning.
        ends: The same at its end; in between the rate goes in a straight line.
        chance: Draws the gaps.
    """
    # The n-th arrival is where the expected number of arrivals reaches the sum of n
    # exponential gaps: the time change that makes any Poisson process of the plain one.
    total, slope = 0.0, (ends - begins) / seconds
    while True:
        total += chance.expovariate(1.0)
        at = _inverse(total, begins, slope)
        if at is None or at >= seconds:
            return
        yield at


def _inverse(expected: float, begins: float, slope: float) -> float | None:
    """The time at which `begins t + slope t^2 / 2` is `expected`; None when it never is."""
    if abs(slope) < 1e-12:
        return expected / begins if begins > 0 else None
    discriminant = begins * begins + 2 * slope * expected
    return (math.sqrt(discriminant) - begins) / slope if discriminant >= 0 else None
