"""What a document is: the values that move between database, worker and servicer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class State(StrEnum):
    """Where processing of a version stands."""

    QUEUED = "queued"
    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    SUPERSEDED = "superseded"
    """A later version took its place; never shown."""


SETTLED = frozenset({State.READY, State.FAILED, State.QUARANTINED})
"""States that only a request can change."""


REFUSED = frozenset({State.FAILED, State.QUARANTINED})
"""States in which the same content, sent again, gets another chance."""


class Stage(StrEnum):
    """What a worker is doing."""

    SCAN = "scan"
    EXTRACT = "extract"
    CHUNK = "chunk"
    EMBED = "embed"
    ACTIVATE = "activate"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Document:
    """A document as readers see it: its latest version."""

    document_id: str
    version: int
    state: State
    stage: str
    done: int
    total: int
    error_reason: str
    error_detail: str
    title: str
    file_name: str
    media_type: str
    size_bytes: int
    sha256: str
    labels: Mapping[str, str]
    allow: tuple[str, ...]
    page_count: int
    chunk_count: int
    live_version: int
    warnings: tuple[str, ...]
    created_at: datetime
    version_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a caller says of a file."""

    file_name: str
    title: str
    labels: Mapping[str, str]
    allow: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A source file that is in the blob store."""

    blob_key: str
    media_type: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed version: what its worker needs to know."""

    project_id: str
    document_id: str
    version: int
    lease_epoch: int
    file_name: str
    given_title: str
    labels: Mapping[str, str]
    allow: tuple[str, ...]
    blob_key: str
    media_type: str
    plan_digest: str
    space: str
    kept: tuple[tuple[int, int], ...]
    """Half-open ranges of chunks that retrieval has acknowledged to an earlier attempt."""
    principals: tuple[str, ...]
    request_id: str
    trace_parent: str
    chunk_tokens: int | None
    """What the project had chosen when the version was queued; None for the service's default."""
    chunk_overlap_tokens: int | None
