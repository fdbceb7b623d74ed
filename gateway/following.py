"""A document's states, for as long as it takes: watched again when the stream breaks off.

Connections between services live for minutes, so that callers find new replicas; a large
document may take longer, and a replica that stops hands its watchers to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from meshkit.errors import Unavailable


class Following:
    """Reads like the call it renews.

    Args:
        watch: Opens a stream that may last for so many seconds.
        seconds: How long to follow.
    """

    def __init__(self, watch: Callable[[float], Any], seconds: float) -> None:
        self._watch = watch
        self._until = monotonic() + seconds
        self._call = watch(seconds)
        self._heard = False
        """Whether the present stream has told anything: one that has not is not renewed."""

    async def read(self) -> Any:
        """The next message, or EOF.

        Raises:
            MeshError: what the stream ended with, unless it could be renewed.
        """
        while True:
            try:
                message = await self._call.read()
            except Unavailable:
                left = self._until - monotonic()
                if not self._heard or left <= 0:
                    raise
                self._call, self._heard = self._watch(left), False
            else:
                self._heard = True
                return message

    def cancel(self) -> None:
        """Ends the stream."""
        self._call.cancel()
