"""What is done to the mesh: every victim is killed with -9 and frozen, in an order by lot."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from dataclasses import dataclass
from enum import StrEnum

from loadtest.chaos_ingest.replica import Replica
from loadtest.chaos_ingest.victims import Victims, frozen
from meshkit.supervisor.layout import DataDirectory

SECOND = "ingestion_2"
"""The second worker, which is no child of the supervisor."""
WORKERS = ("ingestion", SECOND)
VICTIMS = (*WORKERS, "embedding_bulk", "retrieval", "postgres")
RECOVERY_SECONDS = 10.0


class Kind(StrEnum):
    """What is done to a victim."""

    KILL = "kill"
    FREEZE = "freeze"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that was done, in seconds of the wall clock."""

    victim: str
    kind: Kind
    began: float
    ended: float
    """When the victim was ready again."""
    port: int = 0
    """Of a worker: names it as the owner of leases."""


@dataclass(frozen=True, slots=True)
class Sabotage:
    """What is done in a round, one fault after the other. Pairs are the least and the most."""

    faults: tuple[tuple[str, Kind], ...] = tuple((v, k) for v in VICTIMS for k in Kind)
    """In an order by lot: every victim once killed and once frozen."""
    pause_seconds: tuple[float, float] = (0.5, 5.0)
    frozen_seconds: tuple[float, float] = (8.0, 14.0)
    """Past the lease (6 s), and sometimes past what Postgres lets a transaction idle (10 s)."""
    recovery_seconds: float = RECOVERY_SECONDS
    """Without a fault after a kill of ingestion, so that its recovery can be measured."""


class Saboteur:
    """Kills and freezes processes of an embedded mesh.

    Args:
        data: Where the supervisor says what runs.
        replica: The second worker.
        sabotage: What to do.
        chance: Decides order, times and lengths.
    """

    def __init__(
        self, data: DataDirectory, replica: Replica, sabotage: Sabotage, chance: random.Random
    ) -> None:
        self._victims = Victims(data)
        self._replica = replica
        self._sabotage = sabotage
        self._chance = chance
        self.faults: list[Fault] = []

    async def round(self) -> None:
        """Does it all."""
        sabotage = self._sabotage
        for victim, kind in self._chance.sample(sabotage.faults, len(sabotage.faults)):
            await asyncio.sleep(self._chance.uniform(*sabotage.pause_seconds))
            began, port = time.time(), self._port(victim)
            if kind is Kind.KILL:
                await self._kill(victim)
                if victim in WORKERS:
                    await asyncio.sleep(sabotage.recovery_seconds)
            else:
                await self._freeze(victim, self._chance.uniform(*sabotage.frozen_seconds))
            self.faults.append(Fault(victim, kind, began, time.time(), port))

    def restarts(self) -> dict[str, int]:
        """How often each process has been started again."""
        return self._victims.restarts()

    def _port(self, victim: str) -> int:
        return self._replica.port if victim == SECOND else self._victims.port(victim)

    async def _kill(self, name: str) -> None:
        if name == SECOND:
            os.kill(self._replica.pid, signal.SIGKILL)
            await self._replica.start()
        else:
            await self._victims.kill(name)

    async def _freeze(self, name: str, seconds: float) -> None:
        """Stops a process and, for Postgres, every session of it; then lets them go on."""
        pid = self._replica.pid if name == SECOND else await self._victims.running(name)
        async with frozen(pid, with_children=name == "postgres"):
            await asyncio.sleep(seconds)
        if name != SECOND:
            await self._victims.ready(name)
