"""k8s/postgres.sql on a Postgres where nobody is given a superuser."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from meshkit.components import RUNTIME_ROLES, SCHEMAS
from meshkit.database.migrate import migrate
from meshkit.supervisor.postgres import RunningPostgres
from meshkit.supervisor.postgres.cluster import SUPERUSER
from tools.k8s.postgres import MIGRATOR, SQL

ADMINISTRATOR = "administrator"
DATABASE = "customer"


@pytest.fixture(scope="module")
def managed(scratch: Path) -> Iterator[RunningPostgres]:
    """A Postgres as a cloud rents it out: an administrator who may make roles, and a database."""

    async def rent() -> None:
        superuser = await asyncpg.connect(running.cluster.maintenance_dsn)
        word = running.cluster.passwords[ADMINISTRATOR]
        await superuser.execute(f"CREATE ROLE {ADMINISTRATOR} LOGIN CREATEROLE PASSWORD '{word}'")
        await superuser.execute(f"CREATE DATABASE {DATABASE} OWNER {ADMINISTRATOR}")
        await superuser.close()
        # What the cloud does for its administrator when asked for the extension.
        inside = await asyncpg.connect(running.cluster.dsn(SUPERUSER, DATABASE))
        await inside.execute("CREATE EXTENSION vector SCHEMA public")
        await inside.close()

    with RunningPostgres(scratch / "managed", (ADMINISTRATOR, MIGRATOR, *RUNTIME_ROLES)) as running:
        asyncio.run(rent())
        yield running


async def test_an_administrator_who_is_no_superuser_prepares_it_twice_and_migrations_run(
    managed: RunningPostgres,
) -> None:
    cluster = managed.cluster
    administrator = await asyncpg.connect(cluster.dsn(ADMINISTRATOR, DATABASE))
    try:
        for _ in range(2):
            await administrator.execute(SQL.read_text())
        for role in (MIGRATOR, *RUNTIME_ROLES):
            await administrator.execute(f"ALTER ROLE {role} PASSWORD '{cluster.passwords[role]}'")
        unsafe = await administrator.fetch(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE 'citemesh_%' AND rolname <> $1"
            " AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb)",
            SUPERUSER,
        )
        assert unsafe == []
    finally:
        await administrator.close()
    revisions = await migrate(cluster.dsn(MIGRATOR, DATABASE))
    assert set(revisions) == {schema.name for schema in SCHEMAS}
    assert all(revisions.values())
    owners = await asyncpg.connect(cluster.dsn(MIGRATOR, DATABASE))
    try:
        owned = await owners.fetch(
            "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = ANY($1)",
            [schema.name for schema in SCHEMAS],
        )
    finally:
        await owners.close()
    assert {row["tableowner"] for row in owned} == {f"citemesh_{s.name}_owner" for s in SCHEMAS}
