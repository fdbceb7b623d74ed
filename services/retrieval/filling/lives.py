"""The steps of a space's life: built, standing by, switched to, dropped.

The embedding service says which space is active; this service knows whether one is
filled, and does for each what its state asks for (`Duty`). `keep` makes the two agree:
it also takes up what a process left that died between two steps of a switch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from meshkit.database.pool import Database
from meshkit.errors import MeshError, NotFound, Precondition
from meshkit.logging import logger
from meshkit.telemetry import metrics
from services.retrieval.filling.describing import COUNTING_SECONDS, IndexedSpace, describe
from services.retrieval.filling.registry import KnownSpace, SpaceService, SpaceState
from services.retrieval.spaces import Duty, SpaceTables, check_version

log = logger(__name__)

_pending = metrics.gauge("citemesh.retrieval.space.pending")

SWITCHING = timedelta(minutes=10)
"""How long both spaces of a switch are required at most, should its process die in the middle."""
LOOK_SECONDS = 0.1


class SpaceLives:
    """Builds, switches and drops spaces.

    Args:
        database: The pool.
        tables: The dense tables.
        service: The embedding service.
        wake: Set when there is something to fill.
        unasked_chunks: A space set behind the active one is filled by itself while the
            corpus has at most so many chunks; a larger one costs enough to be asked for.
        patience_seconds: How long a switch waits for the vectors of what was uploaded
            this moment.
    """

    def __init__(
        self,
        database: Database,
        tables: SpaceTables,
        service: SpaceService,
        wake: asyncio.Event,
        unasked_chunks: int,
        patience_seconds: float = 20.0,
    ) -> None:
        self._database = database
        self._tables = tables
        self._service = service
        self._wake = wake
        self._unasked_chunks = unasked_chunks
        self._patience_seconds = patience_seconds
        self._turn = asyncio.Lock()
        """One step at a time in this process."""

    async def describe(self, name: str = "", *, estimate: bool = False) -> list[IndexedSpace]:
        """Every space, or the one named, as it is now; see `describe`.

        Raises:
            NotFound: SPACE_UNKNOWN.
        """
        known = await self._service.spaces()
        return await describe(
            self._database, [_named(known, name)] if name else known, estimate=estimate
        )

    async def build(self, name: str) -> IndexedSpace:
        """Begins or resumes filling a space; returns at once.

        Raises:
            NotFound: SPACE_UNKNOWN: nobody embeds in it.
            Precondition: SPACE_MISMATCH, or SPACE_ALREADY_ACTIVE.
        """
        async with self._turn:
            space = _named(await self._service.spaces(), name)
            if space.state is SpaceState.ACTIVE:
                raise Precondition(
                    "SPACE_ALREADY_ACTIVE",
                    f"Space {name} is the active one: every chunk has its vector there.",
                )
            if not space.configured:
                raise NotFound(
                    "SPACE_UNKNOWN",
                    f"Space {name} is registered but not one of CITEMESH_EMBEDDING_SPACES: nobody "
                    "embeds in it.",
                )
            if space.state is SpaceState.RETIRED:
                await self._service.set_state(name, SpaceState.BUILDING)
            self._tables.forget(name)
            table = await self._tables.open(name, space.version)
            if table.duty not in (Duty.FOLLOWED, Duty.REQUIRED):
                await self._set_duty(space, Duty.FOLLOWED, seen=table.duty)
            async with self._database.connection() as connection, connection.transaction():
                await connection.execute(
                    "UPDATE retrieval.space_table SET paused = false, trouble = '' "
                    "WHERE number = $1",
                    table.number,
                )
                await connection.execute("SELECT retrieval.retry_space($1)", table.number)
        self._wake.set()
        log.info("space is built", space=name)
        return (await self.describe(name))[0]

    async def pause(self, name: str) -> IndexedSpace:
        """Stops filling a space; what is under way is kept.

        Raises:
            NotFound: SPACE_UNKNOWN: it was never begun.
        """
        async with self._database.connection() as connection:
            paused = await connection.fetchval(
                "UPDATE retrieval.space_table SET paused = true "
                "WHERE space = $1 AND duty = 'followed' RETURNING true",
                name,
            )
        if not paused:
            raise NotFound("SPACE_UNKNOWN", f"Space {name} is not being filled.")
        log.info("filling is paused", space=name)
        return (await self.describe(name))[0]

    async def switch(self, name: str, request_id: str) -> tuple[str, str, int]:
        """Makes a filled space the active one: its name, the former one's, chunks checked.

        From the check until the switch a version goes live only with its vectors in
        both spaces, so nothing is missing in the new one at the moment it is asked.

        Raises:
            NotFound: SPACE_UNKNOWN.
            Precondition: SPACE_INCOMPLETE, SPACE_MISMATCH or SPACE_ALREADY_ACTIVE.
        """
        async with self._turn:
            space = _named(await self._service.spaces(), name)
            table = await self._tables.find(name)
            if space.state is SpaceState.ACTIVE:
                # A repetition; the registry remembers what came of it.
                active, previous = await self._service.switch(name, request_id)
                return active, previous, 0
            if table is None or not space.configured:
                raise _incomplete(name, "nothing was written to it yet")
            check_version(name, filled_by=table.version, given=space.version)
            await self._require(name, table.number)
            live = await self._count(name, table.number)
            await self._service.set_state(name, SpaceState.STANDBY)
            active, previous = await self._service.switch(name, request_id)
            await self._agree(switched=True)
        log.info("space switched", active=active, previous=previous, chunks=live)
        return active, previous, live

    async def _count(self, name: str, number: int) -> int:
        """Live chunks, every one of which has its vector in the required space.

        Counted chunk by chunk; what is found missing is put to work and the switch refused.
        """
        async with self._database.connection() as connection:
            row = await connection.fetchrow(
                "SELECT live, filled FROM retrieval.count_space($1)",
                number,
                timeout=COUNTING_SECONDS,
            )
            assert row is not None
            live: int = row["live"]
            if live == row["filled"]:
                return live
            async with connection.transaction():
                await connection.execute("SELECT retrieval.set_duty($1, 'followed')", number)
                await connection.execute("SELECT retrieval.seed_space($1)", number)
        self._wake.set()
        missing = live - row["filled"]
        raise _incomplete(name, f"{missing} of {live} live chunks have no vector there")

    async def _require(self, name: str, number: int) -> None:
        """Makes the space required as soon as nothing is missing."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience_seconds
        while True:
            self._wake.set()
            async with self._database.connection() as connection:
                missing = await connection.fetchval(
                    "SELECT retrieval.require_space($1, $2)", number, SWITCHING
                )
            if not missing:
                return
            if loop.time() > until:
                raise _incomplete(name, f"{missing} documents wait for their vectors")
            await asyncio.sleep(LOOK_SECONDS)

    async def drop(self, name: str) -> int:
        """Retires a space and drops its table; returns the bytes it had.

        Raises:
            NotFound: SPACE_UNKNOWN.
            Precondition: SPACE_IN_USE: it is the active one.
        """
        async with self._turn:
            _named(await self._service.spaces(), name)
            await self._service.set_state(name, SpaceState.RETIRED)
            async with self._database.connection() as connection:
                number = await connection.fetchval(
                    "SELECT number FROM retrieval.space_table WHERE space = $1", name
                )
                if number is None:
                    return 0
                await connection.execute("SELECT retrieval.set_duty($1, 'none')", number)
                gone: int = await connection.fetchval("SELECT retrieval.drop_space($1)", number)
            self._tables.forget(name)
        log.info("space dropped", space=name, bytes=gone)
        return gone

    async def agree(self) -> None:
        """Makes duties agree with the registry once; raises MeshError."""
        async with self._turn:
            await self._agree()

    async def keep(self, first_seconds: float, every_seconds: float) -> None:
        """Makes duties agree with the registry, for ever; why it cannot is said once.

        Args:
            first_seconds: How often it is tried until it has succeeded once.
            every_seconds: How often afterwards.
        """
        pause, said = first_seconds, ""
        while True:
            try:
                await self.agree()
            except MeshError as error:
                if error.reason != said:
                    log.warning("spaces are not known", reason=error.reason)
                said = error.reason
            else:
                if said:
                    log.info("spaces are known")
                pause, said = every_seconds, ""
            await asyncio.sleep(pause)

    async def _agree(self, *, switched: bool = False) -> None:
        """Gives each space the duty of its state; says STANDBY of those that are filled.

        Args:
            switched: Whether a switch has just ended, so that nothing is under way.
        """
        # Duties before states: of a switch that ends between the two looks both sides are seen
        # as they were at its end, or its space as switching still.
        async with self._database.connection() as connection:
            live = await connection.fetchval("SELECT retrieval.live_chunks()")
            rows = await connection.fetch(
                "SELECT s.space, s.number, s.duty, s.paused, b.pending, "
                "coalesce(s.switching_until > now(), false) AS switching "
                "FROM retrieval.space_table s JOIN retrieval.space_backlog() b USING (number)"
            )
        for row in rows:
            _pending.set(row["pending"], {"space": row["space"]})
        ours = {row["space"]: row for row in rows}
        for space in await self._service.spaces():
            try:
                await self._agree_on(space, ours.get(space.name), live, switched=switched)
            except Precondition as error:
                log.error("a space cannot be used", space=space.name, detail=error.detail)

    async def _agree_on(self, space: KnownSpace, row: Any, live: int, *, switched: bool) -> None:
        """One space of `_agree`; `row` is None for one without a table."""
        duty = Duty(row["duty"]) if row else Duty.UNKNOWN
        switching = row is not None and row["switching"]
        match space.state:
            case SpaceState.ACTIVE:
                if duty is not Duty.REQUIRED or (switching and switched):
                    await self._set_duty(space, Duty.REQUIRED, seen=duty)
            case SpaceState.RETIRED:
                if row is not None and duty is not Duty.NONE:
                    await self._set_duty(space, Duty.NONE, seen=duty)
            case _ if duty is Duty.REQUIRED:
                if switched or not switching:
                    await self._set_duty(space, Duty.FOLLOWED, seen=duty)
            case _ if duty is Duty.FOLLOWED:
                filled = row is not None and not row["pending"] and not row["paused"]
                if filled and space.state is SpaceState.BUILDING:
                    await self._service.set_state(space.name, SpaceState.STANDBY)
            case _ if space.configured and live <= self._unasked_chunks:
                await self._set_duty(space, Duty.FOLLOWED, seen=duty)
            case SpaceState.STANDBY:
                # Said by a release that did not keep spaces filled.
                await self._service.set_state(space.name, SpaceState.BUILDING)

    async def _set_duty(self, space: KnownSpace, duty: Duty, *, seen: Duty) -> None:
        """Changes the duty of a space, if it is still the one that was seen."""
        if duty is not Duty.NONE:
            # Makes the table, or checks that it was filled by the model of today.
            self._tables.forget(space.name)
            await self._tables.open(space.name, space.version)
        async with self._database.connection() as connection:
            await connection.execute(
                "SELECT retrieval.set_duty(number, $2) FROM retrieval.space_table "
                "WHERE space = $1 AND duty = $3",
                space.name,
                duty.value,
                seen.value,
                timeout=COUNTING_SECONDS,
            )
        self._tables.forget(space.name)
        self._wake.set()
        log.info("duty of a space", space=space.name, duty=duty.value)


def _named(known: Sequence[KnownSpace], name: str) -> KnownSpace:
    for space in known:
        if space.name == name:
            return space
    names = ", ".join(space.name for space in known)
    raise NotFound(
        "SPACE_UNKNOWN",
        f"There is no space {name}. Add it to CITEMESH_EMBEDDING_SPACES, behind the active one, "
        f"and restart the embedding service; now there are: {names}.",
    )


def _incomplete(name: str, why: str) -> Precondition:
    return Precondition(
        "SPACE_INCOMPLETE",
        f"Space {name} is not filled: {why}. `citemesh reindex --space {name}` fills it.",
    )
