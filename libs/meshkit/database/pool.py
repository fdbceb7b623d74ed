"""A service's connections to Postgres, each transaction bound to one project.

Row-level security compares `project_id` with the setting `citemesh.project_id`,
which lives only as long as a transaction. A connection without it sees no row.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from opentelemetry.metrics import CallbackOptions, Observation

from meshkit.database.statements import traced
from meshkit.errors import InvalidInput, Unavailable
from meshkit.logging import logger
from meshkit.telemetry import metrics

Connection: TypeAlias = "asyncpg.Connection[Any] | PoolConnectionProxy[Any]"

log = logger(__name__)

_wait = metrics.histogram("db.client.connection.wait_time")
_timeouts = metrics.counter("db.client.connection.timeouts")
UNREACHABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InterfaceError,
    # What asyncpg says of a connection that broke while it waited in the pool.
    asyncpg.InternalClientError,
    OSError,
)
"""What Postgres being away, starting or restarting looks like."""

NO_TEXT = (asyncpg.CharacterNotInRepertoireError, asyncpg.UntranslatableCharacterError)
"""What a text that Postgres cannot hold looks like: one with a NUL character."""

ACQUIRE_SECONDS = 5.0
"""Longest wait for a free connection."""


class RoleUnsafe(RuntimeError):
    """The database role would see through row-level security."""


class Database:
    """A pool whose transactions see one project at a time."""

    def __init__(self, pool: asyncpg.Pool[Any], direct_url: str) -> None:
        self._pool = pool
        self._direct_url = direct_url
        _open.add(self)

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        role: str,
        size: int,
        direct_url: str = "",
        on_connect: Callable[[Any], Awaitable[None]] | None = None,
    ) -> Database:
        """Opens a pool that acts as `role`.

        Args:
            url: Data source name; its user is `role` itself or a member of it.
            role: Runtime role of the service.
            size: Most connections.
            direct_url: Data source name past a pooler; empty means `url`.
            on_connect: Called with each new connection, to register codecs.

        Raises:
            RoleUnsafe: when the role is a superuser or may bypass row security.
            OSError, asyncpg.PostgresError: when Postgres does not answer.
        """

        async def prepare(connection: Any) -> None:
            if await connection.fetchval("SELECT current_user") != role:
                await connection.execute(f'SET ROLE "{role}"')
            unsafe = await connection.fetchval(
                "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
            )
            if unsafe:
                raise RoleUnsafe(f"Role {role} bypasses row-level security; use one that does not.")
            if on_connect is not None:
                await on_connect(connection)

        pool = await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=size,
            init=prepare,
            reset=_reset,
            command_timeout=60,
            max_inactive_connection_lifetime=300,
            server_settings={"application_name": role},
        )
        return cls(pool, direct_url or url)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection that sees no project, for functions that name theirs.

        Raises:
            Unavailable: DATABASE_UNAVAILABLE when Postgres is away, DATABASE_BUSY
                when no connection comes free.
            InvalidInput: TEXT_INVALID when a text cannot be stored.
        """
        began = time.perf_counter()
        try:
            connection = await self._pool.acquire(timeout=ACQUIRE_SECONDS)
        except TimeoutError as error:
            _timeouts.add(1)
            raise Unavailable(
                "DATABASE_BUSY",
                "All connections to the database are in use; try again shortly.",
                retry_after=1.0,
            ) from error
        except UNREACHABLE as error:
            raise unavailable() from error
        _wait.record(time.perf_counter() - began)
        try:
            with traced(connection):
                yield connection
        except ValueError:
            # A bad argument is an InterfaceError too, and no fault of the database.
            raise
        except UNREACHABLE as error:
            raise unavailable() from error
        except NO_TEXT as error:
            raise InvalidInput(
                "TEXT_INVALID", "A text holds a character that cannot be stored, such as NUL."
            ) from error
        finally:
            await self._pool.release(connection)

    @asynccontextmanager
    async def project(self, project_id: str) -> AsyncIterator[Connection]:
        """A transaction that sees one project.

        Raises:
            Unavailable: DATABASE_UNAVAILABLE when Postgres is away.
        """
        async with self.connection() as connection, connection.transaction():
            await connection.execute(
                "SELECT set_config('citemesh.project_id', $1, true)", project_id
            )
            yield connection

    async def clock(self) -> float:
        """Seconds since 1970, by the clock of Postgres' machine.

        Raises:
            Unavailable: as `connection`.
        """
        async with self.connection() as connection:
            seconds: float = await connection.fetchval(
                "SELECT extract(epoch FROM clock_timestamp())::float8"
            )
        return seconds

    @asynccontextmanager
    async def direct(self) -> AsyncIterator[asyncpg.Connection[Any]]:
        """A connection of its own past any pooler, for LISTEN."""
        connection = await asyncpg.connect(self._direct_url)
        try:
            yield connection
        finally:
            await connection.close(timeout=2)

    async def close(self) -> None:
        """Waits for transactions in flight, at most a few seconds, and closes."""
        try:
            await asyncio.wait_for(self._pool.close(), timeout=5)
        except TimeoutError:
            log.warning("database pool closed with work in flight")
            self._pool.terminate()


_open: weakref.WeakSet[Database] = weakref.WeakSet()


def _connections(_: CallbackOptions) -> Iterable[Observation]:
    pools = [database._pool for database in list(_open)]  # noqa: SLF001 - our own class
    idle = sum(pool.get_idle_size() for pool in pools)
    used = sum(pool.get_size() for pool in pools) - idle
    yield Observation(idle, {"db.client.connection.state": "idle"})
    yield Observation(used, {"db.client.connection.state": "used"})


def _most(_: CallbackOptions) -> Iterable[Observation]:
    yield Observation(sum(each._pool.get_max_size() for each in list(_open)))  # noqa: SLF001


metrics.observed("db.client.connection.count", _connections)
metrics.observed("db.client.connection.max", _most)


async def _reset(connection: Any) -> None:
    """Makes a released connection fit for the next user.

    What we set ends with its transaction, so the statements asyncpg would send at
    every release (0.1 ms a search) are needed only when one was left open.
    """
    if connection.is_in_transaction():
        await connection.reset()


def unavailable() -> Unavailable:
    """The error for a Postgres that is away."""
    return Unavailable(
        "DATABASE_UNAVAILABLE", "The database cannot be reached now; try again.", retry_after=1.0
    )
