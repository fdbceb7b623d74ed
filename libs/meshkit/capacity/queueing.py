"""The few formulas of queueing theory that the model rests on.

Utilisation law: U = X D. M/M/n: the chance to wait is Erlang's C. Sources: Lazowska et al.,
"Quantitative System Performance" (1984), chapters 3 and 13; Kleinrock, "Queueing Systems" I (1975).
"""

from __future__ import annotations

import math

TAIL = math.log(20)
"""The 95th percentile of an exponential time, in means."""


def utilisation(rate: float, demand: float, servers: float) -> float:
    """Share of the time that each of so many servers is busy; above 1 is more than there is."""
    return rate * demand / servers


def erlang_c(servers: int, offered: float) -> float:
    """Chance that a request has to wait for one of so many servers.

    Args:
        servers: How many there are.
        offered: Busy servers on average, below `servers`.

    Raises:
        ValueError: as much or more is offered than there is.
    """
    if offered >= servers:
        raise ValueError("nothing waits for ever")
    blocked = 1.0
    # Erlang's B by its recursion, which does not overflow as factorials do.
    for busy in range(1, servers + 1):
        blocked = offered * blocked / (busy + offered * blocked)
    return blocked / (1 - (1 - blocked) * offered / servers)


def stretch(servers: int, busy_share: float) -> float:
    """How much longer a request takes at M/M/n than with nobody else; infinite from 1 on."""
    if busy_share >= 1:
        return math.inf
    if busy_share <= 0:
        return 1.0
    return 1 + erlang_c(servers, servers * busy_share) / (servers * (1 - busy_share))
