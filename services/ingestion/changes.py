"""Tells those who watch documents in this process that one changed.

What this process does itself is told at once. What others do is seen by one look a second at
all watched documents together, whoever watches them: a thousand watchers cost one query.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime

from meshkit.database.pool import Database
from meshkit.errors import Unavailable
from meshkit.logging import logger

log = logger(__name__)


class Changes:
    """Wakes the watchers of a document."""

    def __init__(self) -> None:
        self._events: dict[str, asyncio.Event] = {}
        self._watchers: Counter[str] = Counter()
        self._seen: dict[str, datetime] = {}

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

    async def follow(self, database: Database, seconds: float) -> None:
        """Looks for what other processes changed, again and again, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.look(database)
            except Unavailable as error:
                log.warning("watched documents not looked at", reason=error.reason)

    async def look(self, database: Database) -> None:
        """Wakes the watchers of every document that changed since the last look, or is gone."""
        watched = list(self._events)
        if not watched:
            self._seen.clear()
            return
        async with database.connection() as connection:
            rows = await connection.fetch("SELECT * FROM ingestion.last_changes($1)", watched)
        found = {row["document_id"]: row["changed_at"] for row in rows}
        before, self._seen = self._seen, found
        for document_id in watched:
            if document_id not in before or before[document_id] != found.get(document_id):
                self.notify(document_id)
