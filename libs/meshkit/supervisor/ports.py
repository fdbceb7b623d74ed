"""Free loopback ports that stay free.

A port picked with `bind(0)` comes from the kernel's ephemeral range, where any outgoing
connection may take it while the service that owns it restarts. Ports are therefore drawn from
below that range.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable

LOOPBACK = "127.0.0.1"
RANGE = range(15_000, 32_000)
"""Above the registered ports people use by hand, below the usual ephemeral range (32768-)."""


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a listener could bind `port` on `host` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As every server here does: a port in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def pick(taken: Iterable[int] = (), host: str = LOOPBACK) -> int:
    """A free port of `RANGE` that is not in `taken`.

    Raises:
        OSError: no free port was found in 200 draws.
    """
    excluded = set(taken)
    draw = random.SystemRandom()
    for _ in range(200):
        port = draw.choice(RANGE)
        if port not in excluded and is_free(port, host):
            return port
    raise OSError(f"no free port between {RANGE.start} and {RANGE.stop} on {host}")
