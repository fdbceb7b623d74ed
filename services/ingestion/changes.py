"""Tells those who watch a document in this process that it changed.

A hint only: watchers look at the row itself, also without a hint, so that
nothing depends on which replica does the work.
"""

from __future__ import annotations

import asyncio
from collections import Counter


class Changes:
    """Wakes the watchers of a document."""

    def __init__(self) -> None:
        self._events: dict[str, asyncio.Event] = {}
        self._watchers: Counter[str] = Counter()

    def notify(self, document_id: str) -> None:
        """Wakes everyone who waits for the document."""
        event = self._events.pop(document_id, None)
        if event is not None:
            event.set()

    async def wait(self, document_id: str, seconds: float) -> None:
        """Returns at the next change, at the latest after `seconds`."""
        event = self._events.setdefault(document_id, asyncio.Event())
        self._watchers[document_id] += 1
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return
        finally:
            self._watchers[document_id] -= 1
            if not self._watchers[document_id]:
                del self._watchers[document_id]
                # A later wait may have put its own event there.
                if self._events.get(document_id) is event:
                    del self._events[document_id]
