"""Vectors of recent questions, in the memory of one process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from services.embedding.embedder import Task
from services.embedding.vectors import Vectors


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What a cached vector belongs to; it is never returned for anything else."""

    project_id: str
    space: str
    task: Task
    text_sha256: bytes


class QueryCache:
    """Least recently used first out, and nothing older than `max_age` seconds.

    Args:
        entries: Most vectors kept; 0 keeps none.
        max_age: Seconds after which a vector is forgotten.
        clock: Seconds that only grow, such as `time.monotonic`.
    """

    def __init__(self, entries: int, max_age: float, clock: Callable[[], float]) -> None:
        self._limit = entries
        self._max_age = max_age
        self._clock = clock
        self._entries: OrderedDict[CacheKey, tuple[float, Vectors]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: CacheKey) -> Vectors | None:
        """The vector of a key, if it is still here and young enough."""
        found = self._entries.get(key)
        if found is None:
            return None
        kept_at, vector = found
        if self._clock() - kept_at > self._max_age:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return vector

    def put(self, key: CacheKey, vector: Vectors) -> None:
        """Keeps a vector of its own memory, so that no larger array is kept alive."""
        if self._limit == 0:
            return
        self._entries[key] = (self._clock(), vector.copy())
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def forget_project(self, project_id: str) -> int:
        """Forgets a project's vectors; returns how many there were."""
        keys = [key for key in self._entries if key.project_id == project_id]
        for key in keys:
            del self._entries[key]
        return len(keys)
