"""Code of the last release on the next one's schema: migrations expand before they contract."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from meshkit.components import SCHEMAS, Schema
from meshkit.database.migrate import migrate
from meshkit.database.revisions import directory, head
from meshkit.process import _schemas_fit
from meshkit.supervisor.postgres.cluster import SUPERUSER
from tests.conftest import MigratedPostgres
from tests.contract.schema_shape import NOTHING, Shape, shape, taken_away

CONTRACT = re.compile(r'^CONTRACT = "(.+)"', re.MULTILINE)
"""How a revision says why nothing that still runs misses what it takes away."""
EMPTY = "citemesh_migrations"


@pytest.fixture(scope="module")
async def empty(postgres: MigratedPostgres) -> AsyncIterator[str]:
    """An administrator's URL of a database with the schemas and no tables."""
    from meshkit.database.bootstrap import statements

    cluster = postgres.running.cluster
    administrator = await asyncpg.connect(cluster.maintenance_dsn)
    await administrator.execute(f"CREATE DATABASE {EMPTY}")
    url = cluster.dsn(SUPERUSER, EMPTY)
    connection = await asyncpg.connect(url)
    for statement in statements():
        await connection.execute(statement)
    await connection.close()
    yield url
    await administrator.execute(f"DROP DATABASE {EMPTY} (FORCE)")
    await administrator.close()


@pytest.fixture(scope="module")
async def steps(empty: str) -> list[tuple[Schema, int, list[str]]]:
    """What each revision took away from the one before it."""
    shapes: dict[str, Shape] = {}
    found: list[tuple[Schema, int, list[str]]] = []

    def look(connection: Any, schema: Schema, revision: int) -> None:
        now = shape(connection, schema)
        found.append((schema, revision, list(taken_away(shapes.get(schema.name, NOTHING), now))))
        shapes[schema.name] = now

    await migrate(empty, look)
    assert {(schema.name, revision) for schema, revision, _ in found} == {
        (schema.name, revision) for schema in SCHEMAS for revision in range(1, head(schema) + 1)
    }
    assert all(shapes[schema.name].columns for schema in SCHEMAS)
    return found


def declared(schema: Schema, revision: int) -> str:
    [file] = (directory(schema) / "versions").glob(f"{revision:04}_*.py")
    reason = CONTRACT.search(file.read_text())
    return reason[1] if reason else ""


async def test_no_revision_takes_away_what_older_code_uses_unless_it_says_why_nobody_does(
    steps: list[tuple[Schema, int, list[str]]],
) -> None:
    undeclared = {
        f"{schema.name} {revision:04}": taken
        for schema, revision, taken in steps
        if taken and not declared(schema, revision)
    }
    assert undeclared == {}


async def test_who_says_that_something_is_taken_away_takes_something_away(
    steps: list[tuple[Schema, int, list[str]]],
) -> None:
    for schema, revision, taken in steps:
        assert bool(declared(schema, revision)) <= bool(taken), f"{schema.name} {revision:04}"


@pytest.mark.parametrize(
    ("statement", "taken"),
    [
        ("ALTER TABLE t ADD COLUMN more text", []),
        ("ALTER TABLE t ADD COLUMN more text NOT NULL DEFAULT ''", []),
        ("CREATE TABLE other (id integer PRIMARY KEY)", []),
        ("CREATE OR REPLACE FUNCTION f(integer) RETURNS integer LANGUAGE sql AS 'SELECT 2'", []),
        ("CREATE INDEX ON t (name)", []),
        ("ALTER TABLE t DROP COLUMN name", ["column t.name is gone"]),
        (
            "ALTER TABLE t RENAME COLUMN name TO title",
            ["column t.name is gone", "new column t.title has to be written"],
        ),
        ("ALTER TABLE t ALTER COLUMN id TYPE bigint", ["column t.id was integer and is bigint"]),
        ("ALTER TABLE t ALTER COLUMN free SET NOT NULL", ["column t.free has to be written now"]),
        ("ALTER TABLE t ADD COLUMN more text NOT NULL", ["new column t.more has to be written"]),
        ("ALTER TABLE t ADD CHECK (name <> '')", ["t has a new demand, t_name_check"]),
        ("CREATE UNIQUE INDEX one ON t (name)", ["t has a new demand, contracts.one"]),
        ("DROP FUNCTION f(integer)", ["function contracts.f(integer) is gone"]),
        ("REVOKE INSERT ON t FROM citemesh_contracts", ["right lost: contracts.t INSERT"]),
    ],
)
async def test_what_older_code_would_miss_is_seen(
    empty: str, statement: str, taken: list[str]
) -> None:
    from sqlalchemy.engine import make_url
    from sqlalchemy.ext.asyncio import create_async_engine

    schema = Schema("contracts", "")
    engine = create_async_engine(make_url(empty).set(drivername="postgresql+asyncpg"))
    async with engine.connect() as connection:
        for prepare in (
            "CREATE ROLE citemesh_contracts",
            "CREATE SCHEMA contracts",
            "SET search_path = contracts",
            "CREATE TABLE t (id integer PRIMARY KEY, name text NOT NULL, free text)",
            "CREATE FUNCTION f(integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'",
            "GRANT SELECT, INSERT ON t TO citemesh_contracts",
        ):
            await connection.exec_driver_sql(prepare)
        await connection.exec_driver_sql("SET LOCAL search_path = public")
        before = await connection.run_sync(shape, schema)
        await connection.exec_driver_sql("SET LOCAL search_path = contracts")
        await connection.exec_driver_sql(statement)
        await connection.exec_driver_sql("SET LOCAL search_path = public")
        after = await connection.run_sync(shape, schema)
        await connection.rollback()
    await engine.dispose()
    assert list(taken_away(before, after)) == taken


async def test_older_code_starts_on_a_newer_schema(postgres: MigratedPostgres) -> None:
    schema = next(schema for schema in SCHEMAS if schema.name == "embedding")
    owner = await asyncpg.connect(postgres.alone.owner_dsn)
    newer = f"{head(schema) + 1:04}"
    try:
        await owner.execute("UPDATE embedding.alembic_version SET version_num = $1", newer)
        await _schemas_fit(postgres.alone.dsn("embedding"), [schema])
    finally:
        current = f"{head(schema):04}"
        await owner.execute("UPDATE embedding.alembic_version SET version_num = $1", current)
        await owner.close()
