"""Fixtures that every room's tests may use: a real Postgres, migrated as in production."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from xdist.scheduler import LoadScopeScheduling

from loadtest.simulator.running import RunningSimulator
from meshkit.components import RUNTIME_ROLES
from meshkit.supervisor.postgres import DATABASE, RunningPostgres, create_database
from meshkit.supervisor.postgres.cluster import SUPERUSER

# What a session starts once and several files use: the tests below each of these go to one
# worker. The longest first, so that the other worker is not idle at the end.
SHARED = ("tests/mesh", "tests/contract/test_lexical", "tests/contract/gateway")


def together(nodeid: str) -> str:
    """Name of the tests that share a worker with this one: its file, or one of `SHARED`."""
    file = nodeid.partition("::")[0]
    return next((shared for shared in SHARED if file.startswith(shared)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Deals whole files to the workers of pytest-xdist: their fixtures are theirs alone.

    Not its marks of groups: xdist 3.8 writes them into `_nodeid`, which pytest 9.2 does not read,
    and deals single tests without a word.
    """
    scheduling = LoadScopeScheduling(config, log)
    scheduling._split_scope = together  # type: ignore[method-assign]
    return scheduling


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: (*SHARED, together(item.nodeid)).index(together(item.nodeid)))


ALONE = "citemesh_alone"
"""A copy of the migrated database, for tests about all projects of a mesh."""


@dataclass(frozen=True, slots=True)
class MigratedPostgres:
    """An embedded Postgres with the database, roles and schemas of the mesh."""

    running: RunningPostgres
    database: str = DATABASE

    def dsn(self, service: str) -> str:
        """URL of a service's runtime role: `postgres.dsn("retrieval")`."""
        return self.running.cluster.dsn(f"citemesh_{service}", self.database)

    @property
    def owner_dsn(self) -> str:
        """URL of the superuser on the same database: sees every row."""
        return self.running.cluster.dsn(SUPERUSER, self.database)

    @property
    def alone(self) -> MigratedPostgres:
        """The second database of the same Postgres; who uses it finds and leaves it empty."""
        return replace(self, database=ALONE)

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return self.running.pid


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory of this session that other accounts may enter (Postgres runs as `nobody` when
    the tests run as root, and pytest's own temporary directories are 0700)."""
    directory = Path(tempfile.mkdtemp(prefix="citemesh-test-"))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(scratch: Path) -> Iterator[MigratedPostgres]:
    """Embedded Postgres, bootstrapped and migrated to head; ends with the session."""
    from meshkit.database.bootstrap import bootstrap
    from meshkit.database.migrate import migrate

    with RunningPostgres(scratch / "postgres", RUNTIME_ROLES) as running:
        cluster = running.cluster

        async def prepare() -> None:
            await create_database(cluster.maintenance_dsn, DATABASE)
            await bootstrap(cluster.admin_dsn, cluster.passwords)
            await migrate(cluster.admin_dsn)
            connection = await asyncpg.connect(cluster.maintenance_dsn)
            await connection.execute(f"CREATE DATABASE {ALONE} TEMPLATE {DATABASE}")
            await connection.close()

        asyncio.run(prepare())
        yield MigratedPostgres(running)


@pytest.fixture(scope="session")
def simulator_process() -> Iterator[RunningSimulator]:
    """The providers' simulator in a process of its own; see the fixture `simulator`."""
    with RunningSimulator.start() as running:
        yield running


@pytest.fixture
def simulator(simulator_process: RunningSimulator) -> RunningSimulator:
    """The simulator without faults, quotas and counts of another test."""
    simulator_process.reset()
    return simulator_process


@pytest.fixture(scope="session")
def opensearch() -> Iterator[str]:
    """Address of a real OpenSearch node of this session. In CI it has to run; elsewhere what is
    missing to run it is said in one line."""
    from tests.opensearch.node import Missing, running

    try:
        with running() as node:
            yield node.url
    except Missing as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))
