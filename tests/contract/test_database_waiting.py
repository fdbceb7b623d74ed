"""A service that is there before its database waits for it."""

from __future__ import annotations

import asyncio

import asyncpg
import structlog
from sqlalchemy.engine import make_url

from meshkit.components import COMPONENTS
from meshkit.process import _schemas_fit
from tests.conftest import MigratedPostgres
from tests.contract.service_process import eventually

RETRIEVAL = [s for c in COMPONENTS if c.name == "retrieval" for s in c.schemas]


async def test_a_postgres_that_has_no_roles_yet_is_waited_for(postgres: MigratedPostgres) -> None:
    known = make_url(postgres.dsn("retrieval"))
    url = known.set(username="citemesh_later").render_as_string(hide_password=False)
    connection = await asyncpg.connect(postgres.owner_dsn)
    try:
        with structlog.testing.capture_logs() as logs:
            waiting = asyncio.create_task(_schemas_fit(url, RETRIEVAL))

            async def said() -> bool:
                return any("lets nobody in" in str(line.get("problem")) for line in logs)

            await eventually(said, 10)
            assert not waiting.done()
            await connection.execute(
                f"CREATE ROLE citemesh_later LOGIN PASSWORD '{known.password}'"
                " IN ROLE citemesh_retrieval"
            )
            await asyncio.wait_for(waiting, 10)
    finally:
        await connection.execute("DROP ROLE IF EXISTS citemesh_later")
        await connection.close()


async def test_a_password_that_is_wrong_is_waited_for_and_named(
    postgres: MigratedPostgres,
) -> None:
    url = postgres.dsn("retrieval").replace("citemesh_retrieval:", "citemesh_retrieval:not-")
    with structlog.testing.capture_logs() as logs:
        waiting = asyncio.create_task(_schemas_fit(url, RETRIEVAL))

        async def said() -> bool:
            return any("InvalidPasswordError" in str(line.get("problem")) for line in logs)

        await eventually(said, 10)
        assert not waiting.done()
        waiting.cancel()
