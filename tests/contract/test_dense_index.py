"""Keeping the dense index: which pgvector it trusts, and how it is built anew under load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import numpy as np
import pytest

from meshkit.database import dense_index
from meshkit.database.migrate import LOCK, MigrationBusy, migrate
from meshkit.database.pgvector import DatabaseUnfit, check_available, check_installed

DIMENSIONS = 16
SPACE = f"test/kept@{DIMENSIONS}"
ROWS = 1500


@pytest.fixture
async def owner(postgres: Any) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(postgres.owner_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def table(owner: Any) -> str:
    """A dense table with rows, by its name."""
    number = await owner.fetchval("SELECT retrieval.ensure_space($1, $2)", SPACE, DIMENSIONS)
    name = f"retrieval.dense_{number}"
    await owner.execute(f"TRUNCATE {name}")
    await insert(owner, name, range(ROWS))
    return name


async def insert(owner: Any, table: str, keys: Any) -> None:
    random = np.random.default_rng(len(keys))
    rows = [(key, random.normal(size=DIMENSIONS).tolist()) for key in keys]
    statement = f"INSERT INTO {table} VALUES ($1, 'prj', 'doc', 1, $2::real[]::public.halfvec)"
    await owner.executemany(statement, rows)


async def installed_as(owner: Any, version: str | None) -> None:
    """Says another version than what is installed, until the transaction is rolled back."""
    if version is None:
        await owner.execute("UPDATE pg_extension SET extname = 'gone' WHERE extname = 'vector'")
    else:
        await owner.execute(
            "UPDATE pg_extension SET extversion = $1 WHERE extname = 'vector'", version
        )


@pytest.mark.parametrize("version", ["0.8.3", "0.7.4", "0.8", None])
async def test_a_pgvector_that_loses_rows_is_refused(owner: Any, version: str | None) -> None:
    transaction = owner.transaction()
    await transaction.start()
    try:
        await installed_as(owner, version)
        with pytest.raises(DatabaseUnfit, match=r"0\.8\.4 or newer") as caught:
            await check_installed(owner)
    finally:
        await transaction.rollback()
    assert version is None or version in str(caught.value)


@pytest.mark.parametrize("version", ["0.8.4", "0.8.10", "0.9.0", "1.0"])
async def test_a_pgvector_that_keeps_them_is_taken(owner: Any, version: str) -> None:
    transaction = owner.transaction()
    await transaction.start()
    try:
        await installed_as(owner, version)
        await check_installed(owner)
    finally:
        await transaction.rollback()
    await check_available(owner)


async def test_a_migration_does_not_begin_on_an_old_pgvector(postgres: Any, owner: Any) -> None:
    found = await owner.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    await installed_as(owner, "0.8.1")
    try:
        with pytest.raises(DatabaseUnfit, match="ALTER EXTENSION vector UPDATE"):
            await migrate(postgres.owner_dsn)
    finally:
        await installed_as(owner, found)


async def test_a_rebuild_lets_reads_and_writes_go_on(postgres: Any, owner: Any, table: str) -> None:
    before = await owner.fetchval(
        "SELECT index_name::regclass::oid FROM retrieval.dense_index WHERE space = $1", SPACE
    )
    query = (
        f"SELECT chunk_key FROM {table} ORDER BY embedding <=> $1::real[]::public.halfvec LIMIT 5"
    )
    busy = 0

    async def use() -> None:
        nonlocal busy
        connection = await asyncpg.connect(postgres.owner_dsn)
        try:
            while True:
                await insert(connection, table, [ROWS + busy])
                assert len(await connection.fetch(query, [1.0] * DIMENSIONS)) == 5
                busy += 1
        finally:
            await connection.close()

    using = asyncio.create_task(use())
    try:
        done = await dense_index.rebuild(postgres.owner_dsn, SPACE, most_memory=1 << 28)
        assert not using.done(), "reads or writes failed meanwhile"
    finally:
        using.cancel()
        await asyncio.gather(using, return_exceptions=True)
    assert busy > 0
    assert done.rows >= ROWS
    after = await owner.fetchrow(
        "SELECT index_name::regclass::oid AS oid, index_name, valid FROM retrieval.dense_index "
        "WHERE space = $1",
        SPACE,
    )
    assert after["oid"] != before
    assert (after["index_name"], after["valid"]) == (done.index, True)


async def test_what_a_broken_rebuild_left_is_removed(postgres: Any, owner: Any, table: str) -> None:
    name = table.partition(".")[2]
    await owner.execute(
        f"CREATE INDEX {name}_embedding_idx_ccnew ON {table} "
        "USING hnsw (embedding public.halfvec_cosine_ops)"
    )
    await dense_index.rebuild(postgres.owner_dsn, SPACE, most_memory=1 << 28)
    count = await owner.fetchval(
        "SELECT count(*) FROM retrieval.dense_index WHERE space = $1", SPACE
    )
    assert count == 1


async def test_one_rebuild_at_a_time_and_only_of_what_exists(postgres: Any, owner: Any) -> None:
    with pytest.raises(dense_index.SpaceUnknown, match="No space test/none@3"):
        await dense_index.rebuild(postgres.owner_dsn, "test/none@3", most_memory=1 << 28)
    await owner.fetchval("SELECT pg_advisory_lock($1)", LOCK)
    with pytest.raises(MigrationBusy):
        await dense_index.rebuild(postgres.owner_dsn, SPACE, most_memory=1 << 28)
    await owner.fetchval("SELECT pg_advisory_unlock($1)", LOCK)


def test_memory_follows_rows_and_width() -> None:
    assert dense_index.memory_for(10, 384) == dense_index.LEAST_MEMORY
    assert dense_index.memory_for(1_000_000, 384) > 1_000_000 * 768
    assert dense_index.memory_for(1_000_000, 768) > dense_index.memory_for(1_000_000, 384)
