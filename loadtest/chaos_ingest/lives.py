"""What owners do with their documents while the mesh is being sabotaged."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

from loadtest.chaos_ingest.client import Client, GaveUp
from loadtest.chaos_ingest.files import Fate, File, Plan
from meshkit.ids import new_id

SETTLED = frozenset({"ready", "failed", "quarantined"})
UPLOADS_AT_ONCE = 6
POLL_SECONDS = 0.5
READY_WITHIN_SECONDS = 400.0


@dataclass(slots=True)
class Record:
    """A document as its owner knows it."""

    plan: Plan
    document_id: str = ""
    """Empty until an upload was acknowledged."""
    refused: str = ""
    """Reason why it was not acknowledged."""
    current: File | None = None
    """The last content that was acknowledged."""
    version: int = 0
    other_ids: set[str] = field(default_factory=set)
    """Ids that the same content or request came back with: duplicates."""
    deleted_at: float = 0.0
    """Monotonic time at which a deletion was acknowledged; 0 for a living one."""
    steady: bool = False
    """It was ready and, if anything, is only processed anew: every search must find it."""
    trouble: str = ""
    """Why its life could not be lived to the end."""


class Owner:
    """Lives the lives of all documents of a round.

    Args:
        client: A client of the round's project.
        chance: Decides the moments.
    """

    def __init__(self, client: Client, chance: random.Random) -> None:
        self._client = client
        self._chance = chance
        self._uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)

    async def live(self, record: Record, begin_after: float) -> None:
        """Uploads a document after some seconds and does with it what is planned."""
        await asyncio.sleep(begin_after)
        try:
            async with self._uploads:
                await self._upload(record)
            if record.document_id:
                await self._go_on(record)
        except GaveUp as error:
            record.trouble = str(error)

    async def _upload(self, record: Record) -> None:
        plan, key = record.plan, new_id("up")
        if plan.fate is not Fate.IMPATIENT:
            self._acknowledged(record, plan.file, await self._send("POST", "", plan.file, key))
            return
        first = asyncio.create_task(self._send("POST", "", plan.file, key))
        await asyncio.sleep(self._chance.uniform(0.0, 0.2))
        if self._chance.random() < 0.5:
            first.cancel()
        self._acknowledged(record, plan.file, await self._send("POST", "", plan.file, key))
        for found in await asyncio.gather(first, return_exceptions=True):
            if isinstance(found, dict):
                self._acknowledged(record, plan.file, found)

    async def _send(self, method: str, under: str, file: File, key: str) -> dict[str, Any]:
        # What carries no marker in its text carries it in its title.
        titled = file.name.endswith((".pdf", ".docx"))
        reply = await self._client.call(
            method,
            f"/v1/documents{under}",
            key=key,
            files={"file": (file.name, file.content)},
            data={"title": f"Paper {file.marker}"} if titled else {},
        )
        found: dict[str, Any] = reply.json()
        return found | {"status": reply.status_code}

    def _acknowledged(self, record: Record, file: File, found: dict[str, Any]) -> None:
        if found["status"] != 202:
            record.refused = str(found.get("reason"))
        elif record.document_id and found["id"] != record.document_id:
            record.other_ids.add(found["id"])
        else:
            record.document_id, record.current = found["id"], file
            record.version = max(record.version, found["version"])

    async def _go_on(self, record: Record) -> None:
        match record.plan.fate:
            case Fate.TWICE:
                await asyncio.sleep(self._chance.uniform(0.0, 4.0))
                again = await self._send("POST", "", record.plan.file, new_id("up"))
                self._acknowledged(record, record.plan.file, again)
            case Fate.REPLACED:
                assert record.plan.successor is not None
                await asyncio.sleep(self._chance.uniform(0.0, 6.0))
                under = f"/{record.document_id}"
                successor = record.plan.successor
                found = await self._send("PUT", under, successor, new_id("up"))
                self._acknowledged(record, successor, found)
            case Fate.REPROCESSED:
                if await self._ready(record):
                    record.steady = True
                    path = f"/v1/documents/{record.document_id}:reprocess"
                    reply = await self._client.call("POST", path, key=new_id("re"))
                    record.version = reply.json()["version"]
            case Fate.DELETED:
                await asyncio.sleep(self._chance.uniform(0.0, 4.0))
                await self._delete(record)
            case Fate.DELETED_LATE:
                await self._ready(record)
                await self._delete(record)
            case _:
                record.steady = record.plan.file.readable and await self._ready(record)

    async def _delete(self, record: Record) -> None:
        path = f"/v1/documents/{record.document_id}"
        reply = await self._client.call("DELETE", path, key=new_id("rm"))
        if reply.status_code != 204:
            record.trouble = f"DELETE answered {reply.status_code}: {reply.text}"
            return
        record.deleted_at = time.monotonic()

    async def _ready(self, record: Record) -> bool:
        """Waits until the document is settled; whether it is ready then."""
        until = time.monotonic() + READY_WITHIN_SECONDS
        while time.monotonic() < until:
            reply = await self._client.call("GET", f"/v1/documents/{record.document_id}")
            state = reply.json().get("state", "")
            if state in SETTLED or reply.status_code == 404:
                return bool(state == "ready")
            await asyncio.sleep(POLL_SECONDS)
        return False


@dataclass(slots=True)
class Seen:
    """What searches saw while the lives were lived."""

    searches: int = 0
    found_after_delete: int = 0
    gaps: int = 0
    """Whole answers without a document that was live all the time."""


async def keep_looking(
    client: Client, records: list[Record], chance: random.Random, seen: Seen
) -> None:
    """Searches for deleted and for steady documents until cancelled."""
    while True:
        await asyncio.sleep(0.3)
        watched = [record for record in records if record.deleted_at or record.steady]
        if not watched:
            continue
        record = chance.choice(watched)
        assert record.current is not None
        deleted = bool(record.deleted_at)
        found = await client.search(record.current.marker)
        if found is None:
            continue
        documents, degraded = found
        seen.searches += 1
        if deleted:
            seen.found_after_delete += record.document_id in documents
        elif not degraded and not record.deleted_at:
            seen.gaps += record.document_id not in documents
