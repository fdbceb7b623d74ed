"""`citemesh up`: the whole mesh on one machine, from the lock to the last process gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from meshkit.components import COMPONENTS, GATEWAY, ISSUERS, RUNTIME_ROLES, Component
from meshkit.identity import create_keyring
from meshkit.supervisor import database, environment, health, ports
from meshkit.supervisor.child import Child, ChildSpec
from meshkit.supervisor.console import Console, LogFile
from meshkit.supervisor.layout import DataDirectory, DirectoryLock, Holder
from meshkit.supervisor.order import stopping_levels
from meshkit.supervisor.postgres import DATABASE, Cluster, check_vector, create_database
from meshkit.supervisor.postgres.cluster import STOP_SIGNAL
from meshkit.supervisor.simulator import MODULE, Simulator
from meshkit.supervisor.state import MeshState

START_TIMEOUT_S = 180.0
"""Longest wait for all processes to be ready once the database is and the weights are here."""
STATE_EVERY_S = 0.05
DEFAULT_PROJECT = "default"


class PortTaken(Exception):
    """The gateway's port is in use."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(
            f"Port {port} on {host} is in use by another program: choose one with --port."
        )


class StartFailed(Exception):
    """The mesh did not come up; the text says which part and why."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to run the mesh."""

    data: DataDirectory
    port: int = 8080
    host: str = ports.LOOPBACK
    quiet: bool = False
    """Print the supervisor's own lines only."""
    simulate: bool = False
    """Start the simulator and point the mesh at it instead of at the providers."""
    ready_fd: int | None = None
    """Told by one line when the mesh is ready (`--detach`)."""

    @property
    def url(self) -> str:
        """Where the gateway answers."""
        return f"http://{self.host}:{self.port}"


def installed_version() -> str:
    """Version of this installation."""
    try:
        return version("citemesh")
    except PackageNotFoundError:
        return "unknown"


@contextlib.asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that raises the first error itself, not a group of errors."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


class Supervisor:
    """Starts, keeps and stops every process of one embedded mesh.

    `run` returns when it was told to stop (by a signal) and everything is stopped.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._data = options.data
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        names = [component.name for component in COMPONENTS]
        self._console = Console(
            ["postgres", "prepare", "weights", "simulator", *names], quiet=options.quiet
        )
        self._state = MeshState(os.getpid(), options.url, self._since, installed_version())
        self._children: dict[str, Child] = {}
        self._logs: list[LogFile] = []
        self._stop = asyncio.Event()
        self._kill = asyncio.Event()
        self._state_task: asyncio.Task[None] | None = None
        self._pipe = (-1, -1)

    async def run(self) -> None:
        """Brings the mesh up, keeps it up, and takes it down.

        Raises:
            DirectoryHeld: another supervisor has this data directory.
            PortTaken: the gateway's port is in use. Nothing was started.
            PostgresError, ChildFailed, StartFailed: it did not come up; what had is stopped.
        """
        options = self._options
        holder = Holder(os.getpid(), options.url, self._since)
        with DirectoryLock(self._data, holder):
            if not ports.is_free(options.port, options.host):
                raise PortTaken(options.host, options.port)
            self._data.create()
            create_keyring(self._data.identity, ISSUERS)
            self._data.state.unlink(missing_ok=True)
            async with self._signals(), self._lifeline():
                try:
                    await self._unless_stopped(self._start())
                    await self._stop.wait()
                finally:
                    await self._stop_all()
                    self._data.state.unlink(missing_ok=True)

    # -- up --------------------------------------------------------------------------------------

    async def _start(self) -> None:
        began = time.monotonic()
        # While Postgres starts and migrates, the weights are verified, or fetched the first time.
        async with together() as preparing:
            preparing.create_task(self._run_once("weights", "meshkit.weights"))
            database_ready = preparing.create_task(self._database())
        access = database_ready.result()
        urls = access.urls()
        addresses = environment.pick_addresses(self._options.host, self._options.port)
        simulator = self._simulator(addresses) if self._options.simulate else None
        environments = environment.Environments(self._data, addresses, urls, simulator)
        for component in COMPONENTS:
            self._add(self._spec(component, environments)).start()
        try:
            async with asyncio.timeout(START_TIMEOUT_S), together() as starting:
                starting.create_task(self._default_project(urls[GATEWAY.service]))
                for child in self._children.values():
                    starting.create_task(child.wait_ready())
        except TimeoutError:
            late = [name for name, child in self._children.items() if not child.ready.is_set()]
            raise StartFailed(
                f"Not ready after {START_TIMEOUT_S:g} s: {', '.join(late)}; see {self._data.logs}."
            ) from None
        self._state.phase = "ready"
        self._changed()
        self._console.say(
            f"ready at {self._options.url} after {time.monotonic() - began:.1f} s; "
            f"the API key is in {self._data.api_key}"
        )
        if self._options.ready_fd is not None:
            os.write(self._options.ready_fd, b"ready\n")
            os.close(self._options.ready_fd)

    async def _database(self) -> database.Access:
        access = database.external(self._data.postgres)
        if access is None:
            access = await self._embedded_postgres()
        extra = access.preparation_environment()
        await self._run_once("prepare", "meshkit.supervisor.prepare", extra=extra)
        return access

    async def _embedded_postgres(self) -> database.Access:
        cluster = Cluster(self._data.postgres)
        await asyncio.to_thread(cluster.prepare, RUNTIME_ROLES, {self._options.port})
        child = self._add(
            ChildSpec(
                name="postgres",
                command=cluster.command(),
                environment=cluster.launch_environment(),
                watch=health.condition(cluster.is_ready),
                address=f"{ports.LOOPBACK}:{cluster.port}",
                stop_signal=STOP_SIGNAL,
                before_restart=cluster.clear_leftover,
            )
        )
        child.start()
        await child.wait_ready()
        await check_vector(cluster.maintenance_dsn)
        await create_database(cluster.maintenance_dsn, DATABASE)
        return database.Access(cluster.admin_dsn, cluster.passwords)

    def _simulator(self, addresses: Mapping[str, str]) -> Simulator:
        """Starts it; whoever calls a provider before it answers tries again."""
        taken = {int(address.rpartition(":")[2]) for address in addresses.values()}
        port = ports.pick(taken)
        simulator = Simulator(f"{ports.LOOPBACK}:{port}")
        spec = ChildSpec(
            name="simulator",
            command=environment.launcher(MODULE, *simulator.arguments),
            environment=environment.inherited(),
            watch=health.http_service(ports.LOOPBACK, port),
            address=simulator.address,
        )
        self._add(spec).start()
        return simulator

    async def _default_project(self, gateway_url: str) -> None:
        """On first start: a project and a key with all scopes, for the command line."""
        await self._run_once(
            "bootstrap",
            "gateway.bootstrap",
            "--project",
            DEFAULT_PROJECT,
            "--key-file",
            str(self._data.api_key),
            extra={"CITEMESH_GATEWAY_DATABASE_URL": gateway_url},
        )

    def _spec(self, component: Component, environments: environment.Environments) -> ChildSpec:
        address = environments.addresses[component.name]
        host, _, port = address.rpartition(":")
        watch = (
            health.grpc_service(address, component.grpc_service)
            if component.grpc_service
            else health.http_service(host, int(port))
        )
        return ChildSpec(
            name=component.name,
            command=environment.launcher(component.module),
            environment=environments.of(component),
            watch=watch,
            address=address,
            stop_grace=environment.DRAIN_SECONDS + 5,
        )

    async def _run_once(
        self, name: str, module: str, *args: str, extra: dict[str, str] | None = None
    ) -> None:
        spec = ChildSpec(
            name=name,
            command=environment.launcher(module, *args),
            environment=environment.inherited() | (extra or {}),
        )
        child = self._child(spec)
        try:
            await child.run_once()
        except asyncio.CancelledError:
            await child.stop(grace=2)
            raise

    def _add(self, spec: ChildSpec) -> Child:
        child = self._child(spec)
        self._children[spec.name] = child
        self._state.children.append(child.state)
        return child

    def _child(self, spec: ChildSpec) -> Child:
        log = LogFile(self._data.logs / f"{spec.name}.log")
        self._logs.append(log)
        pipe = self._pipe[0]
        return Child(spec, console=self._console, log=log, pipe=pipe, changed=self._changed)

    # -- while up --------------------------------------------------------------------------------

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Does `work` to its end, or gives it up when the signal to stop comes first."""
        working = asyncio.create_task(work)
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({working, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if working.done():
            working.result()
        else:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _signals(self) -> AsyncIterator[None]:
        """The first signal stops the mesh in order, the second at once."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

        def stop() -> None:
            if self._stop.is_set():
                self._kill.set()
            self._stop.set()

        for number in numbers:
            loop.add_signal_handler(number, stop)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    @contextlib.asynccontextmanager
    async def _lifeline(self) -> AsyncIterator[None]:
        """The pipe whose end of file tells the children that we are gone."""
        self._pipe = os.pipe()
        try:
            yield
        finally:
            for descriptor in self._pipe:
                os.close(descriptor)

    def _changed(self) -> None:
        """Writes the state soon; many changes at once become one write."""
        if self._state_task is None or self._state_task.done():
            self._state_task = asyncio.create_task(self._write_state())

    async def _write_state(self) -> None:
        await asyncio.sleep(STATE_EVERY_S)
        self._state_task = None
        self._state.write(self._data.state)

    # -- down ------------------------------------------------------------------------------------

    async def _stop_all(self) -> None:
        self._state.phase = "stopping"
        self._console.say("stopping")
        stopping = asyncio.create_task(self._stop_in_order())
        killed = asyncio.create_task(self._kill.wait())
        await asyncio.wait({stopping, killed}, return_when=asyncio.FIRST_COMPLETED)
        killed.cancel()
        if not stopping.done():
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)
            await asyncio.gather(*(child.stop(grace=0) for child in self._children.values()))
        else:
            stopping.result()
        if self._state_task is not None:
            self._state_task.cancel()
        for log in self._logs:
            log.close()
        self._console.say("stopped")

    async def _stop_in_order(self) -> None:
        for level in stopping_levels(COMPONENTS):
            present = [self._children[name] for name in level if name in self._children]
            await asyncio.gather(*(child.stop() for child in present))
        for name in ("simulator", "postgres"):
            if name in self._children:
                await self._children[name].stop()
