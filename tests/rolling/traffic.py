"""Callers who come whatever happens: searches, streamed answers and uploads by open arrivals.

Between them and the gateways stands what stands there in a deployment: somebody who asks each
gateway every now and then whether it is ready and sends requests to those that are.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import aiohttp

from meshkit.ids import new_id

PROBE_SECONDS = 0.25
PROBE_TIMEOUT_SECONDS = 1.0
PATIENCE_SECONDS = 30.0
FOUND_SECONDS = 60.0
KINDS = {"search": 0.5, "ask": 0.3, "upload": 0.2}
CODE = "48213"
DOCUMENT = f"# Corvin depot\n\nThe gate code of the Corvin depot is {CODE}. It opens at seven.\n"
QUESTION = "What is the gate code of the Corvin depot?"
ACCEPTED = 202


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request."""

    kind: str
    began: float
    """By the monotonic clock."""
    ended: float
    trouble: str = ""
    """Why it failed; empty when it did not."""
    degraded: tuple[str, ...] = ()


class _Failed(Exception):
    """A request that did not get what it asked for."""


class Traffic:
    """Callers of one project.

    Args:
        gateways: Addresses of the gateways.
        key: Of the project.
        per_second: How many requests begin each second.
        seed: Of what they ask and when.
    """

    def __init__(self, gateways: Sequence[str], key: str, per_second: float, seed: int = 1) -> None:
        self._gateways = list(gateways)
        self._ready = set(gateways)
        self._headers = {"Authorization": f"Bearer {key}"}
        self._per_second = per_second
        self._chance = random.Random(seed)
        self._under_way: set[asyncio.Task[None]] = set()
        self._turn = 0
        self._http: aiohttp.ClientSession
        self.outcomes: list[Outcome] = []
        self.acknowledged: list[str] = []
        """Documents that were uploaded."""
        self.known = ""
        """The document that answers the question."""

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Traffic]:
        """Opens connections, and uploads what is asked for."""
        timeout = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            headers=self._headers, timeout=timeout, connector=connector, trust_env=False
        ) as self._http:
            self.known = await self._upload(DOCUMENT)
            await self.settled([self.known])
            yield self

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Requests come until the block ends; those that have begun are waited for."""
        tasks = [asyncio.create_task(self._arriving())]
        tasks += [asyncio.create_task(self._probing(each)) for each in self._gateways]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*self._under_way)

    async def passed(self) -> None:
        """Waits until what has begun so far has ended."""
        await asyncio.gather(*self._under_way)

    async def settled(self, documents: Sequence[str]) -> None:
        """Waits until documents are ready.

        Raises:
            TimeoutError: naming those that are not.
        """
        waiting, until = list(documents), time.monotonic() + FOUND_SECONDS
        while waiting:
            if time.monotonic() > until:
                raise TimeoutError(f"not ready: {waiting}")
            states = [await self._json("GET", f"/v1/documents/{each}") for each in waiting]
            waiting = [each["id"] for each in states if each["state"] != "ready"]
            await asyncio.sleep(0.1 if waiting else 0)

    def failed(self) -> Counter[str]:
        """Kinds and reasons of what failed."""
        return Counter(f"{each.kind}: {each.trouble}" for each in self.outcomes if each.trouble)

    def longest_gap(self) -> float:
        """Longest time in which nothing succeeded, in seconds."""
        ends = sorted(each.ended for each in self.outcomes if not each.trouble)
        first = min((each.began for each in self.outcomes), default=0.0)
        return max((later - earlier for earlier, later in pairwise([first, *ends])), default=0.0)

    async def _arriving(self) -> None:
        due = time.monotonic()
        while True:
            due += self._chance.expovariate(self._per_second)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            [kind] = self._chance.choices(list(KINDS), list(KINDS.values()))
            task = asyncio.create_task(self._one(kind))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _probing(self, gateway: str) -> None:
        """Says whether a gateway gets requests: from when it is ready until it drains or is gone.

        One that only says that it misses something goes on getting them, so that what a
        balancer would hide for a while is seen.
        """
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_SECONDS)
        while True:
            try:
                async with self._http.get(f"{gateway}/readyz", timeout=timeout) as reply:
                    status = (await reply.json())["status"]
            except aiohttp.ClientConnectorError:
                status = "gone"
            except (aiohttp.ClientError, TimeoutError):
                status = "late"
            if status == "ready":
                self._ready.add(gateway)
            elif status in ("draining", "gone"):
                self._ready.discard(gateway)
            await asyncio.sleep(PROBE_SECONDS)

    def _gateway(self) -> str:
        ready = [each for each in self._gateways if each in self._ready]
        if not ready:
            raise _Failed("no gateway is ready")
        self._turn += 1
        return ready[self._turn % len(ready)]

    async def _one(self, kind: str) -> None:
        began = time.monotonic()
        trouble = ""
        degraded: tuple[str, ...] = ()
        try:
            degraded = await self._send(kind)
        except _Failed as failed:
            trouble = str(failed)
        except TimeoutError:
            trouble = "no answer in time"
        except aiohttp.ClientError as error:
            trouble = type(error).__name__
        self.outcomes.append(Outcome(kind, began, time.monotonic(), trouble, degraded))

    async def _send(self, kind: str) -> tuple[str, ...]:
        if kind == "upload":
            text = f"The parcel {new_id('w')} was weighed.\n"
            self.acknowledged.append(await self._upload(text))
            return ()
        if kind == "search":
            found = await self._json("POST", "/v1/search", json={"query": QUESTION, "top_k": 5})
            if not any(CODE in hit["text"] for hit in found["hits"]):
                raise _Failed("not found")
            return tuple(found["degraded"])
        return await self._ask()

    async def _upload(self, text: str) -> str:
        form = aiohttp.FormData()
        form.add_field("file", text.encode(), filename=f"{new_id('up')}.md")
        document = await self._json("POST", "/v1/documents", data=form)
        return str(document["id"])

    async def _ask(self) -> tuple[str, ...]:
        body = {"question": QUESTION, "stream": True, "bypass_cache": True}
        async with self._http.post(f"{self._gateway()}/v1/answers", json=body) as reply:
            await _check(reply)
            text = await reply.text()
        name, _, data = text.rstrip("\n").rpartition("\n\n")[2].partition("\n")
        if name != "event: done":
            raise _Failed(f"ended by {name!r} {_reason(data.removeprefix('data: '))}")
        done = json.loads(data.removeprefix("data: "))
        if CODE not in done["answer"]:
            raise _Failed("not answered")
        return tuple(done["degraded"])

    async def _json(self, method: str, path: str, **how: Any) -> Any:
        async with self._http.request(method, f"{self._gateway()}{path}", **how) as reply:
            await _check(reply)
            return await reply.json()


async def _check(reply: aiohttp.ClientResponse) -> None:
    if reply.status >= 400:
        raise _Failed(f"{reply.status} {_reason(await reply.text())}")


def _reason(text: str) -> str:
    try:
        return str(json.loads(text)["reason"])
    except (ValueError, KeyError, TypeError):
        return ""
