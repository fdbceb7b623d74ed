"""An OpenSearch node whose process ends and begins again on what it had written."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from tests.opensearch.node import Node, running


class SearchNode:
    """One node on one directory, at another port each time that it starts.

    Args:
        home: Its directory.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._context: AbstractContextManager[Node] | None = None
        self._node: Node | None = None

    @property
    def port(self) -> int:
        """Where it listens, or did before it ended."""
        assert self._node is not None
        return urlsplit(self._node.url).port or 0

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._node is not None
        return self._node.process.pid

    async def start(self) -> None:
        """Returns once it answers.

        Raises:
            Missing: this machine lacks what it needs.
            NodeFailed: it does not come up.
        """
        self._context = running(self._home)
        self._node = await asyncio.to_thread(self._context.__enter__)

    async def kill(self) -> None:
        """Ends it with -9."""
        os.kill(self.pid, signal.SIGKILL)
        await self.stop()

    async def stop(self) -> None:
        """Waits until it is gone."""
        if self._context is not None:
            context, self._context = self._context, None
            with suppress(BrokenPipeError):
                await asyncio.to_thread(context.__exit__, None, None, None)
