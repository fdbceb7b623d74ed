"""What a caller of the mesh sees, over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from loadtest.simulator.running import RunningSimulator

QUESTION = "How many days of paid vacation does every employee have in a calendar year?"
FACT = "26 days"
"""What an answer has to say."""


@dataclass(slots=True)
class Seen:
    """One question, as its caller saw it."""

    status: int = 0
    text: str = ""
    """What the events leave a reader with."""
    done: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    """A problem, or the event `error`."""
    switches: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Found:
    """One search, as its caller saw it."""

    degraded: tuple[str, ...]
    similarities: dict[str, float]
    """By chunk, of the hits that the dense list has."""
    chunks: tuple[str, ...]


def events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and data of server-sent events."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])


def ask(http: httpx.Client) -> Seen:
    """Asks the question and reads its stream to the end."""
    seen = Seen()
    began = time.perf_counter()
    body = {"question": QUESTION, "bypass_cache": True, "stream": True}
    with http.stream("POST", "/v1/answers", json=body) as reply:
        seen.status = reply.status_code
        if reply.status_code != 200:
            seen.error = json.loads(reply.read())
        else:
            for name, data in events(reply.iter_lines()):
                _add(seen, name, data)
    seen.seconds = time.perf_counter() - began
    return seen


def _add(seen: Seen, name: str, data: dict[str, Any]) -> None:
    match name:
        case "delta":
            seen.text += data["text"]
        case "retract":
            start, end = data["start"], data["end"]
            seen.text = seen.text[:start] + data["replacement"] + seen.text[end:]
        case "provider_switched":
            how = "starts over" if data["restarted"] else "goes on"
            seen.switches.append(f"{data['to_provider']} {how}")
            seen.text = "" if data["restarted"] else seen.text
        case "done":
            seen.done = data
        case "error":
            seen.error = data


def search(http: httpx.Client) -> Found:
    """Searches for the question's passages, without any cache."""
    body = {"query": QUESTION, "bypass_cache": True, "rerank": True, "top_k": 10}
    found = http.post("/v1/search", json=body).raise_for_status().json()
    return Found(
        tuple(found["degraded"]),
        {
            hit["chunk_id"]: hit["signals"]["dense_similarity"]
            for hit in found["hits"]
            if hit["signals"]["dense_rank"]
        },
        tuple(hit["chunk_id"] for hit in found["hits"]),
    )


def breakers(http: httpx.Client, provider: str, operation: str) -> str:
    """Those of a provider that are not closed, in a few words."""
    listed = http.get("/v1/providers").raise_for_status().json()["breakers"]
    found = []
    for each in listed:
        # Without an operation it is the breaker of the account.
        mine = operation == "*" or each["operation"] in ("", operation)
        if not mine or provider not in ("*", each["provider"]) or each["state"] == "closed":
            continue
        whose = "" if each["model"] else "account "
        left = f" {each['seconds_left']:.0f} s" if each["seconds_left"] else ""
        found.append(f"{whose}{each['state']} ({each['fault']}){left}")
    return ", ".join(sorted(set(found))) or "closed"


def clear(http: httpx.Client, providers: RunningSimulator) -> None:
    """Providers that work and are not given a rest."""
    providers.reset()
    http.post("/v1/providers:reset", json={}).raise_for_status()
