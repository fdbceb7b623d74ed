"""Callers that know what is true: they ask, search and upload all the time, and judge.

Every document states one fact, so that an answer is right, honest about what it could not
do, or wrong; there is nothing in between to argue about.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from loadtest.chaos_ingest.client import Client
from meshkit.ids import new_id

PLACES = ("Aalto", "Brehm", "Corvin", "Dorado", "Eskil", "Fjord", "Galen", "Hesse")
PAUSE_SECONDS = 0.25
FILL_SECONDS = 60.0
PATIENCE_SECONDS = 30.0
"""Longer than any fault lasts; an answer that comes later than this hangs."""
CODE = re.compile(r"\b\d{5}\b")
REFUSED = frozenset({429, 503, 504})


@dataclass(frozen=True, slots=True)
class Fact:
    """What one document says."""

    place: str
    code: str

    @property
    def text(self) -> bytes:
        """The document."""
        return (
            f"# {self.place} depot\n\nThe gate code of the {self.place} depot is {self.code}."
            f" The depot of {self.place} opens at seven in the morning.\n"
        ).encode()

    @property
    def question(self) -> str:
        """Asks for it."""
        return f"What is the gate code of the {self.place} depot?"


FACTS = tuple(Fact(place, str(10_007 + 9_973 * number)) for number, place in enumerate(PLACES))


@dataclass(slots=True)
class Seen:
    """What callers saw during one case, by kind of request: answer, search, upload."""

    good: Counter[str] = field(default_factory=Counter)
    degraded: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    """Problems that say to come back, by kind."""
    reasons: Counter[str] = field(default_factory=Counter)
    busy: int = 0
    """Requests turned away by admission, which is another promise; see `make overload`."""
    missing: Counter[str] = field(default_factory=Counter)
    """What answers and searches had to do without."""
    broken: Counter[str] = field(default_factory=Counter)
    """Connections that ended without an answer, by kind."""
    wrong: list[str] = field(default_factory=list)
    """Answers that are not true, errors that nobody thought of, answers that hung."""
    uploaded: list[tuple[str, str]] = field(default_factory=list)
    """Acknowledged documents with the word that finds each."""
    slowest_seconds: float = 0.0


class Callers:
    """Three kinds of callers of one project.

    Args:
        url: The gateway.
        key: Of the project.
    """

    def __init__(self, url: str, key: str) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        self._http = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False
        )
        self.client = Client(url, key)
        self._chance = random.Random(7)
        self.seen = Seen()
        self.complaint = ""
        """What was not well the last time that somebody asked."""

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()
        await self.client.close()

    async def fill(self) -> None:
        """Uploads the facts and waits until every question is answered rightly."""
        for fact in FACTS:
            await self._upload(f"{fact.place}.md", fact.text)
        for fact in FACTS:
            until = time.monotonic() + FILL_SECONDS
            while not await self._ask(fact):
                if time.monotonic() > until:
                    raise RuntimeError(f"not well before any fault: {self.seen}")
                await asyncio.sleep(0.2)
        self.seen = Seen()

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """All of them at work until the block ends."""
        work = [self._asking(), self._asking(), self._searching(), self._uploading()]
        tasks = [asyncio.create_task(each) for each in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for ended in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(ended, Exception):
                    self.seen.wrong.append(f"a caller ended: {ended!r}")

    async def well(self) -> bool:
        """Whether a question, a search and an upload succeed undegraded now."""
        fact = self._chance.choice(FACTS)
        before = Counter(self.seen.missing), Counter(self.seen.reasons), self.seen.busy
        well = await self._ask(fact) and await self._search(fact) and await self._can_upload()
        missing, reasons = self.seen.missing - before[0], self.seen.reasons - before[1]
        busy = self.seen.busy - before[2]
        self.complaint = f"without {dict(missing)}, refused {dict(reasons)}, busy {busy}"
        return well

    async def lost(self, uploaded: list[tuple[str, str]], within: float) -> list[str]:
        """Acknowledged documents that a search does not find in time."""
        until = time.monotonic() + within
        missing = list(uploaded)
        while missing and time.monotonic() < until:
            missing = [one for one in missing if not await self._findable(*one)]
            await asyncio.sleep(0.2 if missing else 0)
        return [document for document, _ in missing]

    async def _findable(self, document: str, word: str) -> bool:
        found = await self.client.search(word)
        return found is not None and document in found[0]

    async def _asking(self) -> None:
        while True:
            await self._ask(self._chance.choice(FACTS))
            await asyncio.sleep(PAUSE_SECONDS)

    async def _searching(self) -> None:
        while True:
            await self._search(self._chance.choice(FACTS))
            await asyncio.sleep(PAUSE_SECONDS)

    async def _uploading(self) -> None:
        while True:
            word = f"zq{new_id('w')[-12:].lower()}"
            await self._upload(f"{word}.txt", f"The parcel {word} was weighed.\n".encode(), word)
            await asyncio.sleep(2 * PAUSE_SECONDS)

    async def _upload(self, name: str, content: bytes, word: str = "") -> None:
        before = Counter(self.client.troubles)
        try:
            reply = await self.client.call(
                "POST", "/v1/documents", key=new_id("up"), files={"file": (name, content)}
            )
        finally:
            # Also when the case ends while it waits to try again.
            self._troubles_of_an_upload(self.client.troubles - before)
        if reply.status_code != 202:
            self.seen.wrong.append(f"upload: {reply.status_code} {reply.text[:200]}")
            return
        self.seen.good["upload"] += 1
        if word:
            self.seen.uploaded.append((reply.json()["id"], word))

    def _troubles_of_an_upload(self, troubles: Counter[str]) -> None:
        for trouble, count in troubles.items():
            _, _, what = trouble.partition(" ")
            status, _, reason = what.partition(" ")
            if status.isdigit():
                self._refused("upload", int(status), reason, count)
            else:
                self.seen.broken["upload"] += count

    async def _can_upload(self) -> bool:
        content = f"The parcel {new_id('w')} was weighed.\n".encode()
        files = {"file": ("probe.txt", content)}
        reply = await self.client.once("POST", "/v1/documents", files=files)
        return reply is not None and reply.status_code == 202

    async def _ask(self, fact: Fact) -> bool:
        body = {"question": fact.question, "bypass_cache": True}
        found = await self._post("answer", "/v1/answers", body)
        if found is None:
            return False
        codes = set(CODE.findall(found["answer"]))
        right, degraded = fact.code in codes, bool(found["degraded"])
        if not right and (codes or not degraded):
            said = f"{fact.place}: {found['answer'][:120]!r}, degraded {found['degraded']}"
            self.seen.wrong.append(f"answer: {said}")
        return self._counted("answer", found, right=right)

    async def _search(self, fact: Fact) -> bool:
        found = await self._post("search", "/v1/search", {"query": fact.question, "top_k": 5})
        if found is None:
            return False
        right = any(fact.code in hit["text"] for hit in found["hits"])
        degraded = bool(found["degraded"])
        if not right and not degraded:
            self.seen.wrong.append(f"search: {fact.place} is not among {len(found['hits'])} hits")
        return self._counted("search", found, right=right)

    def _counted(self, kind: str, found: dict[str, Any], *, right: bool) -> bool:
        degraded = bool(found["degraded"])
        self.seen.missing.update(found["degraded"])
        (self.seen.degraded if degraded else self.seen.good)[kind] += 1
        return right and not degraded

    async def _post(self, kind: str, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        began = time.monotonic()
        try:
            reply = await self._http.post(path, json=body)
        except httpx.TimeoutException:
            self.seen.wrong.append(f"{kind}: no answer in {PATIENCE_SECONDS:g} s")
            return None
        except httpx.TransportError:
            self.seen.broken[kind] += 1
            return None
        finally:
            took = time.monotonic() - began
            self.seen.slowest_seconds = max(self.seen.slowest_seconds, took)
        if reply.status_code == 200:
            found: dict[str, Any] = reply.json()
            return found
        problem = reply.json() if "problem" in reply.headers.get("content-type", "") else {}
        if not problem.get("request_id"):
            self.seen.wrong.append(f"{kind}: {reply.status_code} without a request id")
        self._refused(kind, reply.status_code, str(problem.get("reason", "")))
        return None

    def _refused(self, kind: str, status: int, reason: str, count: int = 1) -> None:
        if status not in REFUSED or not reason:
            self.seen.wrong.append(f"{kind}: {status} {reason}")
            return
        if reason == "SERVICE_BUSY":
            self.seen.busy += count
            return
        self.seen.refused[kind] += count
        self.seen.reasons[reason] += count
