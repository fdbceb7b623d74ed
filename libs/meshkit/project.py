"""What a project decides for itself.

It travels with the signed context, so that it holds for every caller of the project, whichever
service is called and by which door.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """Choices of a project; None is the service's own default."""

    chunk_tokens: int | None = None
    """Tokens of a chunk at most, of versions uploaded or reprocessed from now on."""
    chunk_overlap_tokens: int | None = None
    """Tokens that a chunk repeats of the one before, at most."""
    fusion: str | None = None
    """How two rankings become one when a search does not say: `rrf` or `min_max`."""
    dense_weight: float | None = None
    """Weight of the ranking by vectors, 0 or more."""
    lexical_weight: float | None = None
    """Weight of the ranking by words, 0 or more."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ProjectSettings:
        """From what `as_json` gave, of any release; what this one does not know is left out."""
        return cls(
            **{name: values[name] for name in _KINDS if isinstance(values.get(name), _KINDS[name])}
        )

    def as_json(self) -> dict[str, Any]:
        """Only what was chosen."""
        return {name: value for name, value in asdict(self).items() if value is not None}


_KINDS: dict[str, Any] = {
    "chunk_tokens": int,
    "chunk_overlap_tokens": int,
    "fusion": str,
    "dense_weight": int | float,
    "lexical_weight": int | float,
}
DEFAULTS = ProjectSettings()
"""Of a project that has chosen nothing."""
