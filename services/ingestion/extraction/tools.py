"""What every reader is given besides the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.ingestion.extraction.ocr import Recogniser


@dataclass(frozen=True, slots=True)
class Tools:
    """What a reader may use."""

    progress: Callable[[int, int], None]
    """Told pages done and to do."""
    ocr: Recogniser
    depth: int = 0
    """How many files the one being read is inside of."""
