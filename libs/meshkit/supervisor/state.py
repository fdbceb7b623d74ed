"""What the supervisor tells `citemesh status`, in one small file that is replaced, never edited."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(slots=True)
class ChildState:
    """One process as the supervisor sees it."""

    name: str
    state: str = "waiting"
    """`waiting`, `starting`, `ready`, `not_ready`, `restarting`, `stopping`, `stopped`."""
    pid: int | None = None
    restarts: int = 0
    address: str = ""
    last_exit: int | None = None
    """Exit code of the process before this one; negative: the signal that ended it."""


@dataclass(slots=True)
class MeshState:
    """The whole mesh."""

    pid: int
    url: str
    since: str
    version: str
    phase: str = "starting"
    """`starting`, `ready`, `stopping`."""
    children: list[ChildState] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Replaces the file in one step: a reader sees the old or the new one."""
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self), indent=1))
        temporary.replace(path)


def read(path: Path) -> MeshState | None:
    """The state last written; None when there is none or it is another version's."""
    try:
        content = json.loads(path.read_text())
        children = [ChildState(**child) for child in content.pop("children")]
        return MeshState(**content, children=children)
    except (OSError, ValueError, TypeError, KeyError):
        return None
