"""What every runtime role is held to by Postgres itself."""

from __future__ import annotations

import asyncpg
import pytest

from meshkit.components import RUNTIME_ROLES
from tests.conftest import MigratedPostgres


@pytest.mark.parametrize("role", RUNTIME_ROLES)
async def test_a_role_is_bound_by_row_security_and_loses_forgotten_transactions(
    postgres: MigratedPostgres, role: str
) -> None:
    connection = await asyncpg.connect(postgres.dsn(role.removeprefix("citemesh_")))
    try:
        free = await connection.fetchval(
            "SELECT rolsuper OR rolbypassrls OR rolcreaterole FROM pg_roles WHERE rolname = $1",
            role,
        )
        assert free is False
        # A frozen process must not keep the row of its document locked for ever.
        assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == "10s"
    finally:
        await connection.close()
