"""Markers in a model's text: those that name no source are taken out while it streams. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

_OPEN = re.compile(r" ?\[[\d\s,]{0,12}$")
_MARKER = re.compile(r"( ?)\[(\s*\d{1,3}(?:\s*,\s*\d{1,3})*\s*)\]")


class MarkerFilter:
    """Lets text through piece by piece; holds back at most a marker that has begun.

    A model may cite what it was not given, or write `[2, 3]`. The first is no citation and
    is left out; the second becomes `[2][3]`.

    Args:
        known: Markers of the sources.
    """

    def __init__(self, known: Collection[str]) -> None:
        self._known = frozenset(known)
        self._held = ""

    def feed(self, piece: str) -> str:
        """The next piece as it may go on; empty while a marker is not complete."""
        text = self._held + piece
        begun = _OPEN.search(text) or (re.search(r" $", text))
        cut = begun.start() if begun else len(text)
        self._held = text[cut:]
        return _MARKER.sub(self._checked, text[:cut])

    def close(self) -> str:
        """What was held back when the text ended."""
        held, self._held = self._held, ""
        return _MARKER.sub(self._checked, held)

    def _checked(self, match: re.Match[str]) -> str:
        named = [marker.strip() for marker in match[2].split(",")]
        kept = "".join(f"[{marker}]" for marker in named if marker in self._known)
        return f"{match[1]}{kept}" if kept else ""
