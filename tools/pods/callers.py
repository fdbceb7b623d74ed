"""Callers of the gateway that know what is true: every request is right, or counted as failed.

A document states one fact, so an answer or a search is right when it has that fact's number.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

PLACES = ("Aalto", "Brehm", "Corvin", "Dorado", "Eskil", "Fjord")
ASKERS = 2
PAUSE_SECONDS = 0.3
PATIENCE_SECONDS = 60.0
READY_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Fact:
    """What one document says."""

    place: str
    code: str

    @property
    def text(self) -> str:
        """The document."""
        return (
            f"# {self.place} depot\n\nThe gate code of the {self.place} depot is {self.code}. "
            f"The depot of {self.place} opens at seven in the morning.\n"
        )

    @property
    def question(self) -> str:
        """Asks for it."""
        return f"What is the gate code of the {self.place} depot?"


FACTS = tuple(Fact(place, str(20_011 + 7_907 * number)) for number, place in enumerate(PLACES))


@dataclass(slots=True)
class Seen:
    """What callers saw in one phase."""

    asked: int = 0
    right: int = 0
    degraded: Counter[str] = field(default_factory=Counter)
    """Right answers that had to do without something, by what."""
    failed: list[str] = field(default_factory=list)
    """Everything else, a line each."""
    slowest_ms: float = 0.0

    @property
    def failed_requests(self) -> int:
        """How many were not answered rightly."""
        return len(self.failed)


class Callers:
    """They ask and search, one request after the other.

    Args:
        gateways: Host and port of the gateways that are ready, as a Service knows them.
        key: API key of a project.
    """

    def __init__(self, gateways: Callable[[], list[str]], key: str) -> None:
        self._gateways = gateways
        self._turns = itertools.count()
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE_SECONDS, trust_env=False
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    def _url(self, path: str) -> str:
        there = self._gateways()
        if not there:
            raise httpx.ConnectError("no gateway is ready")
        return f"http://{there[next(self._turns) % len(there)]}{path}"

    async def upload(self) -> list[str]:
        """Uploads every fact; ids of the documents once all of them are ready.

        Raises:
            RuntimeError: one was refused, failed, or not ready in time.
        """
        ids = []
        for fact in FACTS:
            reply = await self._http.post(
                self._url("/v1/documents"),
                files={"file": (f"{fact.place}.md", fact.text.encode())},
            )
            if reply.status_code != 202:
                raise RuntimeError(f"an upload was answered {reply.status_code}: {reply.text}")
            ids.append(str(reply.json()["id"]))
        until = time.monotonic() + READY_SECONDS
        for document in ids:
            while (state := await self._state(document)) != "ready":
                if state in {"failed", "quarantined"} or time.monotonic() > until:
                    raise RuntimeError(f"{document} is {state}")
                await asyncio.sleep(0.3)
        return ids

    async def _state(self, document: str) -> str:
        reply = await self._http.get(self._url(f"/v1/documents/{document}"))
        return str(reply.raise_for_status().json()["state"])

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[Seen]:
        """Callers at work until the block ends; requests under way then are still judged."""
        seen, over = Seen(), asyncio.Event()
        tasks = [asyncio.create_task(self._work(seen, over, first)) for first in range(ASKERS)]
        try:
            yield seen
        finally:
            over.set()
            await asyncio.gather(*tasks)

    async def ask_all(self) -> Seen:
        """Every fact once."""
        seen = Seen()
        for fact in FACTS:
            await self._ask(seen, fact)
        return seen

    async def _work(self, seen: Seen, over: asyncio.Event, first: int) -> None:
        for number in itertools.count(first):
            await (self._search if number % 3 == 2 else self._ask)(seen, FACTS[number % len(FACTS)])
            try:
                await asyncio.wait_for(over.wait(), PAUSE_SECONDS)
            except TimeoutError:
                continue
            return

    async def _ask(self, seen: Seen, fact: Fact) -> None:
        body = {"question": fact.question, "bypass_cache": True}
        found = await self._post(seen, "/v1/answers", body)
        if found is not None:
            self._judge(seen, fact, found, str(found["answer"]))

    async def _search(self, seen: Seen, fact: Fact) -> None:
        found = await self._post(seen, "/v1/search", {"query": fact.question, "top_k": 5})
        if found is not None:
            self._judge(seen, fact, found, " ".join(hit["text"] for hit in found["hits"]))

    def _judge(self, seen: Seen, fact: Fact, found: dict[str, Any], text: str) -> None:
        if fact.code in text:
            seen.right += 1
            seen.degraded.update(found["degraded"])
        else:
            seen.failed.append(f"{fact.place}: not in {text[:120]!r}, without {found['degraded']}")

    async def _post(self, seen: Seen, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        seen.asked += 1
        began = time.monotonic()
        try:
            reply = await self._http.post(self._url(path), json=body)
        except httpx.HTTPError as error:
            seen.failed.append(f"{path}: {type(error).__name__}")
            return None
        seen.slowest_ms = max(seen.slowest_ms, (time.monotonic() - began) * 1e3)
        if reply.status_code != 200:
            seen.failed.append(f"{path}: {reply.status_code} {reply.text[:200]}")
            return None
        found: dict[str, Any] = reply.json()
        return found
