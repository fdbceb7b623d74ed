"""A service that is there before its database waits for it."""

from __future__ import annotations

import asyncio

import asyncpg
import structlog

from meshkit.components import COMPONENTS
from meshkit.process import _schemas_fit
from meshkit.supervisor.postgres import DATABASE
from tests.conftest import MigratedPostgres
from tests.contract.service_process import eventually

RETRIEVAL = [s for c in COMPONENTS if c.name == "retrieval" for s in c.schemas]


async def test_a_database_that_comes_up_together_with_a_service_is_waited_for(
    postgres: MigratedPostgres,
) -> None:
    cluster = postgres.running.cluster
    url = cluster.dsn("citemesh_retrieval", "citemesh_later")
    with structlog.testing.capture_logs() as logs:
        waiting = asyncio.create_task(_schemas_fit(url, RETRIEVAL))

        async def said() -> bool:
            return any("lets nobody in" in str(line.get("problem")) for line in logs)

        await eventually(said, 10)
        assert not waiting.done()
        connection = await asyncpg.connect(cluster.maintenance_dsn)
        try:
            await connection.execute(f"CREATE DATABASE citemesh_later TEMPLATE {DATABASE}")
            await asyncio.wait_for(waiting, 10)
        finally:
            await connection.execute("DROP DATABASE citemesh_later WITH (FORCE)")
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
