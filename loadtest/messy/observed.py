"""What becomes of a file: uploaded through REST, followed to its end, looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import httpx

SETTLED = ("ready", "failed", "quarantined")
_PAGE = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a file ended."""

    name: str
    state: str
    """`ready`, `failed`, `quarantined`; `refused` at the upload; else it is stuck or lost."""
    reason: str = ""
    detail: str = ""
    characters: int = 0
    pages: int = 0
    chunks: int = 0
    seconds: float = 0.0
    document: str = ""
    first_progress_s: float | None = None
    """Seconds from the acknowledgement to the first count of pages that was shown."""

    @property
    def explained(self) -> bool:
        """Whether it can be searched, or says in a sentence why not."""
        if self.state == "ready":
            return self.characters > 0
        return bool(self.reason) and self.detail.rstrip().endswith(".")

    @property
    def settled(self) -> bool:
        """Whether anything more will happen to it by itself."""
        return self.state in (*SETTLED, "refused")


def observe(client: httpx.Client, name: str, content: bytes, within: float) -> Outcome:
    """Uploads a file and waits until it is settled, for so many seconds at most."""
    began = monotonic()
    response = client.post("/v1/documents", files={"file": (name, content)})
    body = response.json()
    if response.status_code >= 500:
        return Outcome(name, "error", body.get("reason", ""), body.get("detail", ""))
    if response.is_error:
        return Outcome(name, "refused", body["reason"], body["detail"])
    acknowledged = monotonic()
    progressed: float | None = None
    found = body
    try:
        for found in _states(client, body["id"], within):
            if progressed is None and found["progress"]["total"]:
                progressed = monotonic() - acknowledged
    except httpx.ReadTimeout:
        pass
    if found["state"] not in SETTLED:
        found = client.get(f"/v1/documents/{body['id']}").raise_for_status().json()
    error = found.get("error") or {}
    ready = found["state"] == "ready"
    return Outcome(
        name=name,
        state=found["state"],
        reason=error.get("reason", ""),
        detail=error.get("detail", ""),
        characters=_characters(client, body["id"]) if ready else 0,
        pages=found.get("page_count") or 0,
        chunks=found.get("chunk_count") or 0,
        seconds=monotonic() - began,
        document=body["id"],
        first_progress_s=progressed,
    )


def _states(client: httpx.Client, document: str, within: float) -> Iterator[dict[str, Any]]:
    until = monotonic() + within
    with client.stream("GET", f"/v1/documents/{document}/events", timeout=within) as events:
        events.raise_for_status()
        for line in events.iter_lines():
            if line == "event: error":
                return
            if line.startswith("data:"):
                yield json.loads(line[5:])
            if monotonic() > until:
                return


def _characters(client: httpx.Client, document: str) -> int:
    """Length of the extracted text, up to the end of its last chunk."""
    token, end = "", 0
    while True:
        params = {"page_size": _PAGE, "page_token": token}
        found = client.get(f"/v1/documents/{document}/chunks", params=params).raise_for_status()
        page = found.json()
        end = max([end, *(chunk["end"] for chunk in page["chunks"])])
        token = page.get("next_page_token") or ""
        if not token:
            return end


def peaks(log: Path) -> dict[str, float]:
    """Megabytes that reading each document took at most, as ingestion logs it."""
    found: dict[str, float] = {}
    for line in log.read_text(errors="replace").splitlines():
        if '"file read"' in line:
            entry = json.loads(line[line.index("{") :])
            document = entry["document_id"]
            found[document] = max(found.get(document, 0.0), entry["peak_mb"])
    return found


def codes_of_dead_readers(log: Path) -> list[int]:
    """Exit codes of readers that ended without a word: negative for a signal."""
    lines = log.read_text(errors="replace").splitlines()
    return [
        json.loads(line[line.index("{") :])["code"] for line in lines if '"reader died"' in line
    ]
