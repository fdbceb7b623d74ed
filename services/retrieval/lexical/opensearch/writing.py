"""Bulk writes whose every item is checked.

A bulk request succeeds as a whole while items of it fail. An item that OpenSearch
was too busy for is sent again after a pause; one that lost against a newer revision
has done its work; any other failure is the batch's.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from opensearchpy import AsyncOpenSearch

from meshkit.errors import Unavailable
from meshkit.telemetry import metrics
from services.retrieval.lexical.opensearch.client import WRITE_SECONDS, refusal, speaking

SLICE_ACTIONS = 500
SLICE_BYTES = 4_000_000
ATTEMPTS = 5
FIRST_PAUSE = 0.2
CONFLICT = 409
BUSY = 429

_again = metrics.counter("citemesh.retrieval.lexical.retried")


@dataclass(frozen=True, slots=True)
class Action:
    """One write of one chunk; the higher revision wins."""

    key: str
    routing: str
    revision: int
    source: dict[str, Any] | None
    """What the chunk becomes; None deletes it."""

    def lines(self) -> str:
        """As the bulk interface wants it."""
        header = {
            "_id": self.key,
            "routing": self.routing,
            "version": self.revision,
            "version_type": "external_gte",
        }
        if self.source is None:
            return json.dumps({"delete": header}) + "\n"
        return json.dumps({"index": header}) + "\n" + json.dumps(self.source) + "\n"


async def write(client: AsyncOpenSearch, alias: str, actions: Sequence[Action]) -> None:
    """Writes all of them, in order, or says why not.

    Raises:
        Unavailable: when OpenSearch cannot take them now; some may have been taken.
        Internal: LEXICAL_REJECTED when it will never take one of them.
    """
    for part in slices(actions):
        left: Sequence[Action] = part
        for attempt in range(ATTEMPTS):
            left = await _send(client, alias, left)
            if not left:
                break
            _again.add(len(left))
            if attempt + 1 < ATTEMPTS:
                await asyncio.sleep(FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311
        else:
            raise refusal(BUSY, "")


def slices(actions: Sequence[Action]) -> Iterator[list[Action]]:
    """Cuts writes into requests of bounded size."""
    part: list[Action] = []
    size = 0
    for action in actions:
        length = len(action.lines())
        if part and (len(part) == SLICE_ACTIONS or size + length > SLICE_BYTES):
            yield part
            part, size = [], 0
        part.append(action)
        size += length
    if part:
        yield part


async def _send(client: AsyncOpenSearch, alias: str, actions: Sequence[Action]) -> list[Action]:
    """One request; returns what has to be sent again."""
    try:
        async with speaking():
            answer = await client.bulk(
                body="".join(action.lines() for action in actions),
                index=alias,
                # An index that is gone must not be made anew by a write, without its mapping.
                params={"require_alias": "true", "request_timeout": WRITE_SECONDS},
            )
    except Unavailable as error:
        if error.reason == "LEXICAL_BUSY":
            return list(actions)
        raise
    again = []
    for action, item in zip(actions, answer["items"], strict=True):
        (result,) = item.values()
        status = int(result["status"])
        # To delete what is not there is to have deleted it.
        if status < 300 or status == CONFLICT or (status == 404 and action.source is None):
            continue
        kind = str((result.get("error") or {}).get("type", ""))
        refused = refusal(status, kind)
        if refused.reason != "LEXICAL_BUSY":
            raise refused
        again.append(action)
    return again
