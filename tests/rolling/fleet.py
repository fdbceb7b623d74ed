"""A mesh whose services run as several processes each, balanced as in a deployment.

The processes, their environments and their keeping are those of `citemesh up`; only that a
name stands for several addresses is different.
"""

from __future__ import annotations

import asyncio
import io
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from meshkit.components import COMPONENTS, GATEWAY, ISSUERS, Component
from meshkit.identity import create_keyring
from meshkit.supervisor import environment, health, ports
from meshkit.supervisor.child import Child, ChildSpec
from meshkit.supervisor.console import Console, LogFile
from meshkit.supervisor.environment import Environments
from meshkit.supervisor.layout import DataDirectory
from meshkit.supervisor.order import stopping_levels

READY_SECONDS = 240.0
DRAIN_SECONDS = 20.0
NOTICE_SECONDS = 2.0
MIN_READY_SECONDS = 1.0
"""How long a new process is ready before the next one stops, as in a Deployment: callers
connect again half a second apart."""


class NotReady(RuntimeError):
    """Processes did not get ready."""


class NotDrained(RuntimeError):
    """A process had to be killed; the text ends with its last lines."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One process of a component."""

    component: Component
    number: int

    @property
    def name(self) -> str:
        """`retrieval-1`."""
        return f"{self.component.name}-{self.number}"


class Fleet:
    """Starts, restarts and stops the processes.

    Args:
        data: Where logs, keys and files go.
        urls: Each service's Postgres, as its runtime role.
        counts: Processes by component; those that are not named have one.
        settings: Variables for all of them.
    """

    def __init__(
        self,
        data: DataDirectory,
        urls: Mapping[str, str],
        counts: Mapping[str, int],
        settings: Mapping[str, str],
    ) -> None:
        self._data = data
        self._settings = dict(settings)
        self.replicas = [
            Replica(component, number)
            for component in COMPONENTS
            for number in range(counts.get(component.name, 1))
        ]
        taken: set[int] = set()
        self._addresses: dict[str, str] = {}
        for each in self.replicas:
            port = ports.pick(taken)
            taken.add(port)
            self._addresses[each.name] = f"{ports.LOOPBACK}:{port}"
        dialled = {
            component.name: "ipv4:"
            + ",".join(
                self._addresses[each.name] for each in self.replicas if each.component is component
            )
            for component in COMPONENTS
        }
        self._environments = Environments(data, dialled, urls)
        self._children: dict[str, Child] = {}
        self._logs: dict[str, LogFile] = {}
        self._console = Console([each.name for each in self.replicas], out=io.StringIO())
        self._pipe = os.pipe()

    @property
    def gateways(self) -> list[str]:
        """Where each gateway answers."""
        return [
            f"http://{self._addresses[each.name]}"
            for each in self.replicas
            if each.component is GATEWAY
        ]

    async def start(self) -> str:
        """Starts all of them; returns the API key of a project, once they are ready.

        Raises:
            NotReady: naming those that are not.
        """
        self._data.create()
        create_keyring(self._data.identity, ISSUERS)
        try:
            async with asyncio.timeout(READY_SECONDS), asyncio.TaskGroup() as starting:
                starting.create_task(self._project())
                for each in self.replicas:
                    starting.create_task(self._up(each))
        except TimeoutError:
            late = [name for name, child in self._children.items() if not child.ready.is_set()]
            raise NotReady(f"not ready after {READY_SECONDS:g} s: {late}") from None
        return self._data.api_key.read_text().strip()

    async def restart(self, which: Replica) -> tuple[float, float]:
        """Ends a process by SIGTERM and starts its successor.

        Returns:
            Seconds until it had ended, and after that until the successor was ready.

        Raises:
            NotDrained: it did not end in time.
        """
        began = time.monotonic()
        child = self._children[which.name]
        await child.stop()
        said = self._logs[which.name].tail
        if not any('"event": "stopped"' in line for line in said):
            raise NotDrained(f"{which.name} did not end by itself:\n" + "\n".join(said))
        ended = time.monotonic()
        async with asyncio.timeout(READY_SECONDS):
            await self._up(which)
        return ended - began, time.monotonic() - ended

    async def stop(self) -> None:
        """Stops all of them, callers first."""
        for level in stopping_levels(COMPONENTS):
            there = [
                self._children[each.name]
                for each in self.replicas
                if each.component.name in level and each.name in self._children
            ]
            await asyncio.gather(*(child.stop() for child in there))
        for log in self._logs.values():
            log.close()
        for descriptor in self._pipe:
            os.close(descriptor)

    async def _up(self, which: Replica) -> None:
        child = self._child(self._spec(which))
        self._children[which.name] = child
        child.start()
        await child.wait_ready()

    async def _project(self) -> None:
        arguments = ("--project", "default", "--key-file", str(self._data.api_key))
        spec = ChildSpec(
            name="bootstrap",
            command=environment.launcher("gateway.bootstrap", *arguments),
            environment=self._environments.of(GATEWAY),
        )
        await self._child(spec).run_once()

    def _spec(self, which: Replica) -> ChildSpec:
        component, address = which.component, self._addresses[which.name]
        host, _, port = address.rpartition(":")
        own = {
            f"CITEMESH_{component.service.upper()}_LISTEN": address,
            "CITEMESH_DRAIN_SECONDS": str(DRAIN_SECONDS),
            "CITEMESH_TRACE_FILE": "",
        }
        if component is GATEWAY:
            # As in a deployment; `citemesh up` has nobody in front who would need it.
            own["CITEMESH_GATEWAY_NOTICE_SECONDS"] = str(NOTICE_SECONDS)
        return ChildSpec(
            name=which.name,
            command=environment.launcher(component.module),
            environment={**self._environments.of(component), **self._settings, **own},
            watch=health.grpc_service(address, component.grpc_service)
            if component.grpc_service
            else health.http_service(host, int(port)),
            address=address,
            stop_grace=DRAIN_SECONDS + 10,
        )

    def _child(self, spec: ChildSpec) -> Child:
        if spec.name not in self._logs:
            self._logs[spec.name] = LogFile(self._data.logs / f"{spec.name}.log")
        return Child(
            spec,
            console=self._console,
            log=self._logs[spec.name],
            pipe=self._pipe[0],
            changed=lambda: None,
        )


@asynccontextmanager
async def running_fleet(
    home: Path, urls: Mapping[str, str], counts: Mapping[str, int], settings: Mapping[str, str]
) -> AsyncIterator[tuple[Fleet, str]]:
    """A fleet and the API key of its project, until the block ends."""
    fleet = Fleet(DataDirectory.at(home), urls, counts, settings)
    try:
        yield fleet, await fleet.start()
    finally:
        await fleet.stop()
