"""Processor time and memory of every process of the mesh, once a second, from outside."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from meshkit.supervisor.layout import DataDirectory
from meshkit.supervisor.state import read

EVERY_SECONDS = 1.0
GENERATOR, SIMULATOR, MACHINE = "generator", "simulator", "machine"
NOT_THE_MESH = frozenset({GENERATOR, SIMULATOR, MACHINE})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look."""

    at: float
    """Seconds since 1970."""
    cpu: Mapping[str, float]
    """Processor seconds since the start of each service, of the generator and of the machine."""
    memory_mb: Mapping[str, float]


@dataclass(slots=True)
class Watcher:
    """Looks at the mesh of a data directory while it runs.

    Args:
        data: Data directory.
        generators: Tells the process ids of the load generators of the moment.
    """

    data: Path
    generators: Callable[[], Sequence[int]]
    snapshots: list[Snapshot] = field(default_factory=list)
    _gone: dict[tuple[str, int], float] = field(default_factory=dict)

    def look(self) -> None:
        """Takes a snapshot."""
        state = read(DataDirectory(self.data).state)
        pids = {child.name: child.pid for child in state.children} if state else {}
        cpu: dict[str, float] = {}
        memory: dict[str, float] = {}
        for name, pid in pids.items():
            cpu[name], memory[name] = self._family(name, pid)
        found = [self._family(GENERATOR, pid) for pid in self.generators()]
        cpu[GENERATOR] = sum(seconds for seconds, _ in found) + self._former(
            GENERATOR, set(self.generators())
        )
        memory[GENERATOR] = sum(mb for _, mb in found)
        times = psutil.cpu_times()
        cpu[MACHINE] = sum(times) - times.idle - times.iowait - times.guest - times.guest_nice
        self.snapshots.append(Snapshot(time.time(), cpu, memory))

    def _family(self, name: str, pid: int | None) -> tuple[float, float]:
        """Processor seconds and megabytes of a process and what it started."""
        if pid is None:
            return 0.0, 0.0
        seconds = megabytes = 0.0
        try:
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                with process.oneshot():
                    times = process.cpu_times()
                    # Children that ended are in their parent's account.
                    seconds += times.user + times.system
                    megabytes += process.memory_info().rss / 1e6
            ended = root.cpu_times()
            seconds += ended.children_user + ended.children_system
        except psutil.Error:
            seconds = self._gone.get((name, pid), 0.0)
        seconds = max(seconds, self._gone.get((name, pid), 0.0))
        self._gone[name, pid] = seconds
        return seconds, megabytes

    def _former(self, name: str, now: set[int]) -> float:
        return sum(
            seconds
            for (owner, pid), seconds in self._gone.items()
            if owner == name and pid not in now
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Takes a snapshot every second in the block."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.is_set():
                self.look()
                stop.wait(EVERY_SECONDS)

        thread = threading.Thread(target=watch, name="watcher", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.look()


def between(snapshots: Sequence[Snapshot], begins: float, ends: float) -> dict[str, float]:
    """Processor seconds of each name in a stretch of time, straight lines between the looks."""
    names = {name for snapshot in snapshots for name in snapshot.cpu}
    return {
        name: max(0.0, _at(snapshots, name, ends) - _at(snapshots, name, begins)) for name in names
    }


def _at(snapshots: Sequence[Snapshot], name: str, moment: float) -> float:
    place = bisect_left(snapshots, moment, key=lambda found: found.at)
    if place == 0:
        return snapshots[0].cpu.get(name, 0.0)
    if place == len(snapshots):
        return snapshots[-1].cpu.get(name, 0.0)
    before, after = snapshots[place - 1], snapshots[place]
    share = (moment - before.at) / (after.at - before.at)
    low = before.cpu.get(name, 0.0)
    return low + share * (after.cpu.get(name, low) - low)


def growth_mb_per_hour(snapshots: Sequence[Snapshot], name: str) -> float:
    """Slope of a service's memory by least squares; 0 when there are too few looks."""
    points = [(found.at, found.memory_mb[name]) for found in snapshots if name in found.memory_mb]
    if len(points) < 3:
        return 0.0
    mean_at = sum(at for at, _ in points) / len(points)
    mean_mb = sum(mb for _, mb in points) / len(points)
    spread = sum((at - mean_at) ** 2 for at, _ in points)
    slope = sum((at - mean_at) * (mb - mean_mb) for at, mb in points) / spread if spread else 0.0
    return slope * 3600
