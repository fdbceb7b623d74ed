"""Putting documents into a running mesh and waiting until they can be found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx


def upload(http: httpx.Client, path: Path, **fields: Any) -> dict[str, Any]:
    """Uploads a file; returns what the gateway acknowledged with 202."""
    data = {name: json.dumps(value) for name, value in fields.items()}
    reply = http.post("/v1/documents", files={"file": (path.name, path.read_bytes())}, data=data)
    assert reply.status_code == 202, reply.text
    document: dict[str, Any] = reply.json()
    return document


def settled(http: httpx.Client, document_id: str) -> dict[str, Any]:
    """Follows a document's events until it is ready, failed or quarantined."""
    last: dict[str, Any] = {}
    with http.stream("GET", f"/v1/documents/{document_id}/events") as events:
        assert events.status_code == 200
        for line in events.iter_lines():
            if line.startswith("data:"):
                last = json.loads(line[5:])
    return last


def ingest(http: httpx.Client, path: Path, **fields: Any) -> dict[str, Any]:
    """Uploads a file and waits until it is ready."""
    document = settled(http, upload(http, path, **fields)["id"])
    assert document["state"] == "ready", document
    return document
