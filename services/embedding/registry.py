"""The registry of spaces in Postgres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meshkit.database.pool import Connection, Database
from meshkit.errors import Conflict, NotFound, Precondition
from services.embedding.spaces import (
    Identity,
    Space,
    SpaceState,
    check_fit_to_serve,
    check_registered,
    check_same,
    first_states,
)

START_LOCK = 0x656D6265
"""Held while a process registers its spaces: two lanes start at the same moment."""


class SpaceRegistry:
    """Reads and changes schema `embedding`, tables `space` and `space_switch`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[Space]:
        """Every space, the active one first, then by age."""
        async with self._database.connection() as connection:
            return await _all(connection)

    async def open(self, configured: Mapping[str, Identity]) -> Sequence[Space]:
        """Registers what is new, and refuses what would mix vectors.

        Args:
            configured: This process's spaces by name, in the order of its setting.

        Raises:
            Precondition: SPACE_MISMATCH or SPACE_NOT_CONFIGURED, naming both sides.
        """
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", START_LOCK)
            known = await _all(connection)
            check_registered(known, configured)
            active = any(space.state is SpaceState.ACTIVE for space in known)
            states = first_states(list(configured), any_active=active)
            for name, identity in configured.items():
                await _insert(connection, identity, states[name])
            return await _all(connection)

    async def create(self, identity: Identity) -> Space:
        """Registers a space in state BUILDING; the same space again is the same space.

        Raises:
            Precondition: SPACE_MISMATCH: the name is registered with another model.
        """
        async with self._database.connection() as connection, connection.transaction():
            await _insert(connection, identity, SpaceState.BUILDING)
            space = await _one(connection, identity.name)
            check_same(space.identity, identity)
            return space

    async def set_state(self, name: str, state: SpaceState) -> Space:
        """Says whether a space is filled; the active one is never set, only switched.

        Raises:
            NotFound: SPACE_UNKNOWN.
            Precondition: SPACE_IN_USE: it is the active one.
        """
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", START_LOCK)
            if (await _one(connection, name)).state is SpaceState.ACTIVE:
                raise Precondition(
                    "SPACE_IN_USE", f"Space {name} is the active one; switch to another one first."
                )
            await connection.execute(
                "UPDATE embedding.space SET state = $2 WHERE name = $1", name, state.value
            )
            return await _one(connection, name)

    async def switch(self, name: str, request_id: str) -> tuple[Space, Space]:
        """Makes a space the active one; returns it and the one that was active before.

        The same `request_id` again changes nothing and returns the same two.

        Raises:
            NotFound: SPACE_UNKNOWN.
            Precondition: SPACE_INCOMPLETE, SPACE_RETIRED, or SPACE_ALREADY_ACTIVE.
            Conflict: REQUEST_ID_REUSED: it named another space before.
        """
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", START_LOCK)
            done = await connection.fetchrow(
                "SELECT name, previous FROM embedding.space_switch WHERE request_id = $1",
                request_id,
            )
            if done is not None:
                if done["name"] != name:
                    raise Conflict(
                        "REQUEST_ID_REUSED",
                        f"This request_id already switched to {done['name']}; use a new one.",
                    )
                return await _one(connection, name), await _one(connection, done["previous"])
            check_fit_to_serve(await _one(connection, name))
            previous = await connection.fetchval(
                "UPDATE embedding.space SET state = 'standby' WHERE state = 'active' RETURNING name"
            )
            await connection.execute(
                "UPDATE embedding.space SET state = 'active' WHERE name = $1", name
            )
            await connection.execute(
                "INSERT INTO embedding.space_switch (request_id, name, previous) "
                "VALUES ($1, $2, $3)",
                request_id,
                name,
                previous,
            )
            return await _one(connection, name), await _one(connection, previous)


COLUMNS = "name, provider, model, dimensions, normalized, version, state, created_at"


async def _all(connection: Connection) -> list[Space]:
    rows = await connection.fetch(
        f"SELECT {COLUMNS} FROM embedding.space "  # noqa: S608 - a constant
        "ORDER BY state <> 'active', created_at, name"
    )
    return [_space(row) for row in rows]


async def _one(connection: Connection, name: str) -> Space:
    row = await connection.fetchrow(
        f"SELECT {COLUMNS} FROM embedding.space WHERE name = $1",  # noqa: S608 - a constant
        name,
    )
    if row is None:
        raise NotFound(
            "SPACE_UNKNOWN", f"There is no space {name}; ListSpaces names those there are."
        )
    return _space(row)


async def _insert(connection: Connection, identity: Identity, state: SpaceState) -> None:
    await connection.execute(
        "INSERT INTO embedding.space "
        "(name, provider, model, dimensions, normalized, version, state) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (name) DO NOTHING",
        identity.name,
        identity.provider,
        identity.model,
        identity.dimensions,
        identity.normalized,
        identity.version,
        state.value,
    )


def _space(row: Any) -> Space:
    identity = Identity(
        row["name"],
        row["provider"],
        row["model"],
        row["dimensions"],
        row["normalized"],
        row["version"],
    )
    return Space(identity, SpaceState(row["state"]), row["created_at"])
