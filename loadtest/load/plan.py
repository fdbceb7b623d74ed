"""What a driver is told: tracks of load, step by step, in one JSON file. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtest.load.mix import Mix, load_mix


@dataclass(frozen=True, slots=True)
class Stretch:
    """A step in requests a second (open), or in users (closed)."""

    name: str
    seconds: float
    begins: float
    ends: float


@dataclass(frozen=True, slots=True)
class Track:
    """One population of users; all tracks of a plan go at the same time."""

    name: str
    key_variable: str
    """Environment variable with its API key: keys stand in no file and on no command line."""
    kinds: Mapping[str, float]
    fresh: float
    seed: int
    steps: tuple[Stretch, ...]

    def mix(self) -> Mix:
        """What this population does."""
        whole = load_mix()
        return Mix(self.kinds, whole.zipf, self.fresh, whole.slo, whole.topics)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything one driver does."""

    url: str
    tracks: tuple[Track, ...]
    closed: bool = False
    """Steps count users, each of whom asks again when the answer is there (open driver)."""
    drain: bool = False
    """Wait for every answer before the next step, so that a step's costs are its own."""
    think_seconds: float = 0.0
    """Of a closed user between two requests."""
    timeout_seconds: float = 30.0
    most_at_once: int = 1500
    """Requests under way; one that is due beyond it is noted as DRIVER_FULL and not sent."""

    def write(self, path: Path) -> None:
        """Writes the file that `read` reads."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Plan:
        """The plan of a file."""
        values = json.loads(path.read_text())
        tracks = tuple(
            Track(**{**track, "steps": tuple(Stretch(**step) for step in track["steps"])})
            for track in values.pop("tracks")
        )
        return cls(tracks=tracks, **values)


def ladder(users: Sequence[int], seconds: float) -> tuple[Stretch, ...]:
    """Steps of a closed driver with more and more users."""
    return tuple(Stretch(f"{count} users", seconds, count, count) for count in users)
