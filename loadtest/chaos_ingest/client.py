"""A client as it should be: patient, and every repetition carries the request's own id."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any

import httpx

PATIENCE_SECONDS = 240.0
"""Longer than any fault of a round lasts."""
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 3.0
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class GaveUp(Exception):
    """A request was never answered properly."""


class Client:
    """Calls one project of the mesh, again and again until there is an answer.

    Args:
        url: Address of the gateway.
        key: Key of the project.
    """

    def __init__(self, url: str, key: str) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=90, trust_env=False)
        self.troubles: Counter[str] = Counter()
        """Answers that were no success, by status and reason."""

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def call(self, method: str, path: str, *, key: str = "", **how: Any) -> httpx.Response:
        """The first answer that says something about the request rather than about the mesh.

        Args:
            method: HTTP method.
            path: Path and query.
            key: `Idempotency-Key`; the same with every repetition.
            how: For httpx.

        Raises:
            GaveUp: patience has ended.
        """
        headers = {"Idempotency-Key": key} if key else {}
        until = time.monotonic() + PATIENCE_SECONDS
        pause = FIRST_PAUSE_SECONDS
        while True:
            wait = pause
            try:
                reply = await self._http.request(method, path, headers=headers, **how)
            except httpx.TransportError as error:
                self.troubles[f"{method} {type(error).__name__}"] += 1
            else:
                if reply.status_code not in TRANSIENT:
                    return reply
                self.troubles[f"{method} {reply.status_code} {_reason(reply)}"] += 1
                wait = max(pause, float(reply.headers.get("retry-after", 0)))
            if time.monotonic() + wait > until:
                raise GaveUp(f"{method} {path}: {dict(self.troubles)}")
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def once(self, method: str, path: str, **how: Any) -> httpx.Response | None:
        """One answer; None when there was none."""
        try:
            return await self._http.request(method, path, **how)
        except httpx.TransportError:
            return None

    async def documents(self) -> dict[str, dict[str, Any]]:
        """Every document of the project by id."""
        found: dict[str, dict[str, Any]] = {}
        token = ""
        while True:
            params = {"page_size": 200, "page_token": token}
            reply = (await self.call("GET", "/v1/documents", params=params)).raise_for_status()
            found |= {document["id"]: document for document in reply.json()["documents"]}
            token = reply.json()["next_page_token"]
            if not token:
                return found

    async def search(self, word: str) -> tuple[set[str], list[str]] | None:
        """Documents whose chunks hold a word, and what was missing; None without an answer."""
        body = {"query": word, "mode": "lexical", "top_k": 100, "rerank": False}
        reply = await self.once("POST", "/v1/search", json=body)
        if reply is None or reply.status_code != 200:
            return None
        found = reply.json()
        return {hit["document_id"] for hit in found["hits"]}, found["degraded"]


def _reason(reply: httpx.Response) -> str:
    try:
        return str(reply.json().get("reason", ""))
    except ValueError:
        return ""
