"""The life of a service's process: settings, server, ready, draining, gone.

A service's `__main__` gives `run` its settings and one function that builds the
service. Until that function returns the health check says NOT_SERVING; after
SIGTERM no new call is taken, those in flight end, and what the function opened
is closed in reverse order.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import asyncpg
import uvloop

from meshkit import access_log, clock, telemetry, tls
from meshkit import settings as settings_module
from meshkit.channel import MeshChannel
from meshkit.components import BY_NAME, COMPONENTS, OPERATIONS, Schema
from meshkit.database.pool import UNREACHABLE, Database
from meshkit.database.revisions import head, revision
from meshkit.errors import Unavailable
from meshkit.identity import Signer, Verifier
from meshkit.key_files import KeyFileInvalid
from meshkit.logging import configure as configure_logging
from meshkit.logging import logger
from meshkit.memory import settle_memory
from meshkit.server import Server
from meshkit.settings import ServiceSettings, SettingsInvalid
from meshkit.telemetry import event_loop
from meshkit.usage import Budget

log = logger(__name__)

S = TypeVar("S", bound=ServiceSettings)
RETRY_SECONDS = 0.5
CLOCK = "clock"
"""The part of every service that misses it when its clock cannot be relied on."""
CLOCK_SECONDS = 1.0
"""How long Postgres may take to tell the time."""
NOT_PREPARED = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
"""What a Postgres says that has no roles or no database yet, because it came up together with
this process; a wrong password sounds the same, and the log says so until it is right."""


class Process(Generic[S]):
    """What a service's start function is given to build from."""

    def __init__(self, settings: S) -> None:
        """Raises SettingsInvalid when certificates are named that cannot be used."""
        self.settings = settings
        self.service = settings.service
        self.tls = tls.load(settings)
        """For calls between services; None where they are in plain text."""
        self.stack = AsyncExitStack()
        self.draining = asyncio.Event()
        """Set at SIGTERM, before calls in flight are waited for."""
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._channels: dict[str, MeshChannel] = {}
        self.server: Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._database: Database | None = None
        self.clock_relied_on = True
        """Whether this process's clock was not just set, and agrees with Postgres'."""

    def verifier(self) -> Verifier:
        """Verifies signed contexts.

        Raises:
            SettingsInvalid: when CITEMESH_IDENTITY_KEYS names no usable keyring.
        """
        return _load(Verifier.load, self.settings.identity_keys, "CITEMESH_IDENTITY_KEYS")

    def signer(self) -> Signer:
        """Signs contexts with this service's own key.

        Raises:
            SettingsInvalid: when no usable signing key is set.
        """
        variable = f"CITEMESH_{self.service.upper()}_SIGNING_KEY"
        return _load(Signer.load, self.settings.signing_key, variable)

    def channel(self, name: str) -> MeshChannel:
        """The channel to a component, by its name in `meshkit.components`.

        Raises:
            SettingsInvalid: when its address is not set.
        """
        if name not in self._channels:
            variable = f"CITEMESH_{name.upper()}_ADDRESS"
            address = os.environ.get(variable)
            if not address:
                raise SettingsInvalid(f"{variable} must say where {name} is, as host:port.")
            channel = MeshChannel(address, BY_NAME[name].grpc_service, self.tls)
            self._channels[name] = channel
            self.stack.push_async_callback(channel.close)
        return self._channels[name]

    async def database(
        self,
        *schemas: str,
        size: int = 0,
        on_connect: Callable[[Any], Awaitable[None]] | None = None,
    ) -> Database:
        """A pool as this service's runtime role, once the schemas are as new as the code.

        Args:
            schemas: Names of the schemas this service reads.
            size: Most connections; 0 means the setting's.
            on_connect: Called with each new connection, to register codecs.
        """
        url = self.settings.database_url.get_secret_value()
        if not url:
            variable = f"CITEMESH_{self.service.upper()}_DATABASE_URL"
            raise SettingsInvalid(f"{variable} or CITEMESH_DATABASE_URL must name the database.")
        await _schemas_fit(url, [_schema(name) for name in schemas])
        database = await Database.connect(
            url,
            role=f"citemesh_{self.service}",
            size=size or self.settings.database_pool_size,
            direct_url=self.settings.direct_database_url.get_secret_value(),
            on_connect=on_connect,
        )
        self.stack.push_async_callback(database.close)
        self._database = database
        return database

    async def budget(self, database: Database) -> Budget:
        """Spending through schema `usage`, with what is spent being told."""
        budget = Budget(database)
        self.background("usage ledger", budget.run())
        # Once more after the background work: what a call that was cut off spent comes late.
        self.stack.push_async_callback(budget.close)
        return budget

    def serve(self, register: Callable[[Any, Any], None], servicer: Any) -> None:
        """Adds a servicer to the server, which listens already and is NOT_SERVING."""
        if self.server is None:
            raise RuntimeError("this process has no gRPC server")
        self.server.add(register, servicer)

    async def part(self, name: str, working: bool) -> None:
        """Says whether a part is there without which this service does poorer work."""
        if self.server is not None:
            await self.server.set_part(name, working)

    def background(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Runs work beside the calls until the process stops.

        Work that fails ends the process: a supervisor starts a fresh one, rather
        than a process that looks healthy and does half of its job.
        """

        async def guarded() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                log.exception("background work failed", work=name)
                if not self.failed.done():
                    self.failed.set_exception(error)

        task = asyncio.create_task(guarded(), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def watch_event_loop(self) -> None:
        """Measures how late the event loop is, where anybody collects metrics."""
        if telemetry.collects_metrics():
            self.background("event loop", event_loop.watch())

    def watch_clock(self) -> None:
        """Keeps this process's clock, with Postgres' to ask where there is a database."""

        async def tell(relied_on: bool) -> None:
            self.clock_relied_on = relied_on
            await self.part(CLOCK, relied_on)

        self.background("clock", clock.watch(self._time_of_postgres, tell))

    async def _time_of_postgres(self) -> float | None:
        if self._database is None:
            return None
        try:
            async with asyncio.timeout(CLOCK_SECONDS):
                return await self._database.clock()
        except (Unavailable, asyncpg.PostgresError, TimeoutError):
            return None

    async def close(self) -> None:
        """Cancels background work, then closes everything in reverse order."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.stack.aclose()


T = TypeVar("T")


def lower_priority(by: int) -> None:
    """Lets every thread of this process, and those they begin, come after other processes.

    Linux knows a priority for each thread; elsewhere it is the process's.
    """
    if not by:
        return
    if not sys.platform.startswith("linux"):
        os.nice(by)
        return
    for thread in (int(each.name) for each in Path("/proc/self/task").iterdir()):
        with suppress(ProcessLookupError):
            now = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, now + by)


def run_loop(main: Coroutine[Any, Any, T], *, spawns: bool = False) -> T:
    """Runs a process's work to its end on uvloop, or on asyncio's loop if it starts programs.

    uvloop starts them by fork, in which gRPC's threads leave handlers that crash one
    child in a hundred before its program begins; asyncio starts them by vfork.
    """
    with asyncio.Runner(loop_factory=None if spawns else uvloop.new_event_loop) as runner:
        return runner.run(main)


def _load(load: Callable[[Path], T], path: Path | None, variable: str) -> T:
    if path is None:
        raise SettingsInvalid(f"{variable} must name a key file.")
    try:
        return load(path)
    except KeyFileInvalid as error:
        raise SettingsInvalid(f"{variable}: {error}") from None


def _schema(name: str) -> Schema:
    return next(s for c in COMPONENTS for s in c.schemas if s.name == name)


async def _schemas_fit(url: str, schemas: list[Schema]) -> None:
    """Waits until Postgres answers and every schema is as new as this code."""
    said = ""
    while True:
        try:
            connection = await asyncpg.connect(url, timeout=5)
            try:
                behind = [s.name for s in schemas if await revision(connection, s.name) < head(s)]
            finally:
                await connection.close()
            problem = f"schema {', '.join(behind)} is older than this code" if behind else ""
        except (*UNREACHABLE, TimeoutError) as error:
            problem = f"the database does not answer ({type(error).__name__})"
        except NOT_PREPARED as error:
            problem = f"the database lets nobody in yet ({type(error).__name__})"
        if not problem:
            return
        if problem != said:
            log.warning("waiting for the database", problem=problem)
            said = problem
        await asyncio.sleep(RETRY_SECONDS)


async def _serve(
    settings: S, start: Callable[[Process[S]], Awaitable[None]], component: str
) -> None:
    process = Process(settings)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = Server(settings, process.verifier(), process.tls)
    process.server = server
    log.info("starting", **settings_module.visible(settings))
    try:
        process.watch_event_loop()
        process.watch_clock()
        known = BY_NAME[component]
        await server.start([known.grpc_service, *([OPERATIONS] if known.calls_providers else [])])
        waiter: asyncio.Future[Any] = asyncio.create_task(stopping.wait())
        starting: asyncio.Future[Any] = asyncio.ensure_future(start(process))
        await asyncio.wait({starting, waiter}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
            return
        starting.result()
        settle_memory()
        # Not before: a process of low priority that starts on a busy machine does so for ever.
        lower_priority(settings.nice)
        await server.set_serving(True)
        log.info("serving", port=server.port, component=component)
        await asyncio.wait({waiter, process.failed}, return_when=asyncio.FIRST_COMPLETED)
        process.draining.set()
        log.info("draining")
        await server.drain()
        if process.failed.done():
            process.failed.result()
    finally:
        await server.stop()
        await process.close()
        log.info("stopped")


def refuse(service: str, error: SettingsInvalid) -> NoReturn:
    """Ends the process with the sentence that says which setting is wrong, exit code 2."""
    sys.stderr.write(f"citemesh {service} cannot start. {error}\n")
    raise SystemExit(2)


def prepare(cls: type[S]) -> S:
    """Settings and logging; exits with 2 on bad settings."""
    try:
        settings = settings_module.load(cls)
    except SettingsInvalid as error:
        refuse(cls.service, error)
    configure_logging(cls.service, settings.log_level, settings.log_format)
    access_log.configure(
        access_log.Policy(cls.service, settings.access_log, settings.log_format == "json")
    )
    return settings


def start_telemetry(
    settings: ServiceSettings, component: str, *, prometheus: bool = False
) -> telemetry.Telemetry:
    """The telemetry of this process; see `meshkit.telemetry.configure`."""
    try:
        providers = telemetry.configure(
            component,
            trace_file=settings.trace_file,
            metrics_listen=settings.metrics_listen,
            prometheus=prometheus,
            trace_content=settings.trace_content,
        )
    except (OSError, ValueError, OverflowError) as error:
        variable = f"CITEMESH_{settings.service.upper()}_METRICS_LISTEN"
        reason = getattr(error, "strerror", None) or "it is no host:port"
        refuse(
            settings.service,
            SettingsInvalid(
                f"{variable} is {settings.metrics_listen}, where it cannot listen: {reason}."
            ),
        )
    if providers.scrape_port:
        log.info("metrics are served", port=providers.scrape_port, component=component)
    return providers


def run(
    cls: type[S],
    start: Callable[[Process[S]], Awaitable[None]],
    component: str | None = None,
    *,
    spawns: bool = False,
) -> None:
    """Runs a gRPC service until SIGTERM.

    Args:
        cls: Settings class of the service.
        start: Builds the service: opens what it needs and calls `process.serve`.
        component: Name of this instance where a service runs as several.
        spawns: Whether it starts other programs; see `run_loop`.
    """
    settings = prepare(cls)
    name = component or cls.service
    providers = start_telemetry(settings, name)
    try:
        run_loop(_serve(settings, start, name), spawns=spawns)
    except SettingsInvalid as error:
        refuse(cls.service, error)
    finally:
        providers.shutdown()
