"""What retrieval handles: chunks as they are written, stored, found and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from meshkit.errors import InvalidInput

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Version:
    """The document version a write belongs to, with the writer's lease."""

    document_id: str
    version: int
    lease_epoch: int


@dataclass(frozen=True, slots=True)
class Location:
    """Where a chunk stands in its document."""

    page: int
    page_end: int
    headings: Sequence[str]
    start: int
    """First character of the chunk in the extracted text."""
    end: int
    """Character after the last one."""
    section: str


@dataclass(frozen=True, slots=True)
class ChunkDraft:
    """A chunk as ingestion writes it; its vector travels beside it."""

    ordinal: int
    text: str
    location: Location
    token_count: int
    language: str
    flags: Sequence[str]


def chunk_id(document_id: str, version: int, ordinal: int) -> str:
    """`document_id.version.ordinal`, for ever."""
    return f"{document_id}.{version}.{ordinal}"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stored chunk."""

    document_id: str
    version: int
    ordinal: int
    title: str
    text: str
    location: Location
    token_count: int
    flags: Sequence[str]

    @property
    def chunk_id(self) -> str:
        """See `chunk_id`."""
        return chunk_id(self.document_id, self.version, self.ordinal)


@dataclass(frozen=True, slots=True)
class Presentation:
    """How a version shows once it is live, and to whom."""

    title: str
    labels: Mapping[str, str]
    allow: Sequence[str]
    """Principals that may see it; empty means everyone in the project."""
    media_type: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Restricts a search; all given conditions must hold."""

    labels: Mapping[str, str] = field(default_factory=dict)
    document_ids: Sequence[str] = ()
    activated_after: datetime | None = None
    activated_before: datetime | None = None

    @property
    def by_date(self) -> bool:
        """True when a date restricts the search."""
        return self.activated_after is not None or self.activated_before is not None


class Mode(Enum):
    """Which indexes are asked."""

    HYBRID = "hybrid"
    DENSE = "dense"
    LEXICAL = "lexical"


def parse_chunk_id(chunk_id: str) -> tuple[str, int, int] | None:
    """Document, version and ordinal of a chunk id; None when it is none."""
    parts = chunk_id.rsplit(".", 2)
    if len(parts) != 3 or not parts[0]:
        return None
    document_id, version, ordinal = parts
    digits = version.isascii() and version.isdigit() and ordinal.isascii() and ordinal.isdigit()
    if not digits or len(version) > 18 or len(ordinal) > 9:
        return None
    return document_id, int(version), int(ordinal)


def check_texts(drafts: Sequence[ChunkDraft]) -> None:
    """Refuses what Postgres cannot store.

    Raises:
        InvalidInput: CHUNK_INVALID for a NUL character or an ordinal given twice.
    """
    seen: set[int] = set()
    for draft in drafts:
        if draft.ordinal in seen:
            raise InvalidInput("CHUNK_INVALID", f"Ordinal {draft.ordinal} is given twice.")
        seen.add(draft.ordinal)
        if "\x00" in draft.text or any("\x00" in heading for heading in draft.location.headings):
            raise InvalidInput(
                "CHUNK_INVALID", f"The text of chunk {draft.ordinal} holds a NUL character."
            )
