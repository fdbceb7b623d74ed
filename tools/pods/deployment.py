"""Deployments: as many replicas as the manifest says, replaced as its strategy says."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

from tools.pods.derive import Untranslated, pod
from tools.pods.ground import Ground
from tools.pods.replica import Replica
from tools.pods.resources import Resource, Resources

NAMESPACE = "citemesh"


class NotReady(Exception):
    """A Deployment did not become ready; the text has what its replica printed last."""


class Deployment:
    """A Deployment and its replicas.

    Raises:
        Untranslated: the manifest says something that is not carried over.
        Dangling: it refers to what is not there.
    """

    def __init__(self, ground: Ground, manifest: Resource, resources: Resources) -> None:
        spec = manifest["spec"]
        self.name: str = manifest["metadata"]["name"]
        self.template = spec["template"]
        self.component: str = self.template["metadata"]["labels"]["app.kubernetes.io/component"]
        self.wanted: int = spec["replicas"] if "replicas" in spec else least(resources, self.name)
        self._surge = surge(spec["strategy"])
        self._ground = ground
        self._resources = resources
        self._services = resources.services_of(self.template["metadata"]["labels"])
        self._numbers = itertools.count()
        self._changes = asyncio.Event()
        self.replicas: list[Replica] = []

    @property
    def ready(self) -> list[Replica]:
        """The replicas that take calls, which are those behind its Service."""
        return [replica for replica in self.replicas if replica.ready]

    async def start(self) -> None:
        """Starts every replica; none need be ready."""
        await asyncio.gather(*(self._add() for _ in range(self.wanted)))

    async def wait_ready(self, seconds: float, *, replicas: list[Replica] | None = None) -> None:
        """Waits for replicas, all when none are named.

        Raises:
            NotReady: after so many seconds.
        """
        awaited = self.replicas if replicas is None else replicas
        try:
            async with asyncio.timeout(seconds):
                while not all(replica.ready for replica in awaited):
                    self._changes.clear()
                    await self._changes.wait()
        except TimeoutError:
            late = next(replica for replica in awaited if not replica.ready)
            log = await asyncio.to_thread(self._ground.log, late.name)
            raise NotReady(
                f"{late.name} is not ready after {seconds:g} s ({late.restarts} restarts):\n{log}"
            ) from None

    async def wait_restarted(self, replica: Replica, seconds: float) -> None:
        """Waits until a replica that dies has been started again and is ready.

        Raises:
            NotReady: after so many seconds.
        """
        before = replica.restarts
        try:
            async with asyncio.timeout(seconds):
                while replica.restarts == before or not replica.ready:
                    self._changes.clear()
                    await self._changes.wait()
        except TimeoutError:
            raise NotReady(f"{replica.name} is not back after {seconds:g} s") from None

    async def roll(self, seconds: float) -> float:
        """Replaces every replica by a new one, never fewer ready ones than wanted.

        Args:
            seconds: For each new replica to become ready.

        Returns:
            How long it took, the ends of the old ones included.

        Raises:
            NotReady: a new one did not become ready; the old ones left are still there.
        """
        began = time.monotonic()
        old, ends = list(self.replicas), []
        while old:
            added = [await self._add() for _ in range(min(self._surge, len(old)))]
            await self.wait_ready(seconds, replicas=added)
            for _ in added:
                leaving = old.pop(0)
                self.replicas.remove(leaving)
                # A Deployment does not wait for pods that end.
                ends.append(asyncio.create_task(leaving.end()))
        await asyncio.gather(*ends)
        return time.monotonic() - began

    async def end(self) -> None:
        """Ends every replica as a cluster would."""
        await asyncio.gather(*(replica.end() for replica in self.replicas))
        self.replicas.clear()

    async def _add(self) -> Replica:
        name = f"{self.name}-{next(self._numbers)}"
        derived = pod(self.template, self._resources, name, NAMESPACE)
        replica = Replica(self._ground, name, derived, self._services, self._changes.set)
        self.replicas.append(replica)
        await replica.start()
        return replica


def surge(strategy: Any) -> int:
    """How many replicas more there may be during a roll.

    Raises:
        Untranslated: the strategy takes replicas away before new ones are ready.
    """
    rolling = strategy.get("rollingUpdate", {})
    found = rolling.get("maxSurge")
    if rolling.get("maxUnavailable") != 0 or not isinstance(found, int):
        raise Untranslated(f"spec.strategy: {strategy}")
    return found


def least(resources: Resources, name: str) -> int:
    """The replicas of a Deployment that leaves them to its autoscaler: the fewest it may have."""
    for scaler in resources.kind("HorizontalPodAutoscaler"):
        if scaler["spec"]["scaleTargetRef"]["name"] == name:
            return int(scaler["spec"]["minReplicas"])
    return 1
