"""The embedded Postgres: durable, private, and back after every way to die."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from meshkit.supervisor.postgres import (
    Cluster,
    PostgresError,
    RunningPostgres,
    check_vector,
    create_database,
)
from meshkit.supervisor.postgres import cluster as cluster_module
from meshkit.supervisor.postgres.account import Account, can_reach
from meshkit.supervisor.processes import wait_ended


@pytest.fixture
def directory() -> Iterator[Path]:
    """As `<data>/postgres`, below a directory other accounts may enter."""
    with tempfile.TemporaryDirectory(prefix="citemesh-test-") as parent:
        Path(parent).chmod(0o711)
        data = Path(parent) / "data"
        data.mkdir()
        yield data / "postgres"


def value(dsn: str, query: str) -> Any:
    async def fetch() -> Any:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def test_postgres_runs_unprivileged_with_checksums_fsync_and_a_vector_type_that_works(
    directory: Path,
) -> None:
    with RunningPostgres(directory) as running:
        dsn = running.cluster.maintenance_dsn
        assert value(dsn, "SHOW data_checksums") == "on"
        assert value(dsn, "SHOW fsync") == "on"
        assert value(dsn, "SHOW server_encoding") == "UTF8"
        version = asyncio.run(check_vector(dsn))
        assert tuple(map(int, version.split("."))) >= (0, 8, 4)
        assert psutil.Process(running.pid).uids().effective != 0
        listening = {c.laddr.ip for c in psutil.Process(running.pid).net_connections("inet")}
        assert listening == {"127.0.0.1"}


def test_a_wrong_password_is_refused_and_no_secret_is_readable_or_on_a_command_line(
    directory: Path,
) -> None:
    with RunningPostgres(directory, ["citemesh_x"]) as running:
        cluster = running.cluster
        password = cluster.passwords["citemesh_x"]
        wrong = cluster.maintenance_dsn.replace("@", "x@")
        with pytest.raises(asyncpg.InvalidPasswordError):
            value(wrong, "SELECT 1")
        assert (directory / "credentials.json").stat().st_mode & 0o077 == 0
        assert cluster.data.stat().st_mode & 0o077 == 0
        arguments = " ".join(psutil.Process(running.pid).cmdline())
        assert password not in arguments
        assert not list(cluster.home.glob("*.password"))


def test_committed_rows_survive_kill_9_of_postgres_and_the_port_is_kept(
    directory: Path,
) -> None:
    with RunningPostgres(directory) as running:
        port = running.cluster.port
        asyncio.run(create_database(running.cluster.maintenance_dsn, "kept"))
        dsn = running.cluster.dsn(cluster_module.SUPERUSER, "kept")
        value(dsn, "CREATE TABLE t AS SELECT 41 + 1 AS answer")
        os.kill(running.pid, signal.SIGKILL)
        wait_ended(psutil.Process(running.pid), 5)
        assert (running.cluster.data / "postmaster.pid").exists()
    with RunningPostgres(directory) as running:
        assert running.cluster.port == port
        dsn = running.cluster.dsn(cluster_module.SUPERUSER, "kept")
        assert value(dsn, "SELECT answer FROM t") == 42


def test_who_attaches_to_a_running_cluster_reaches_it_and_does_not_disturb_it(
    directory: Path,
) -> None:
    with pytest.raises(PostgresError, match="POSTGRES_MISSING"):
        Cluster.attach(directory)
    with RunningPostgres(directory) as running:
        attached = Cluster.attach(directory)
        assert value(attached.maintenance_dsn, "SELECT 1") == 1
        assert attached.data == running.cluster.data
        assert psutil.pid_exists(running.pid)


def test_a_stale_pid_file_that_names_somebody_else_does_not_stop_the_start(
    directory: Path,
) -> None:
    with RunningPostgres(directory) as running:
        pid_file = running.cluster.data / "postmaster.pid"
        content = pid_file.read_text().splitlines()
    other = subprocess.Popen(["sleep", "60"])
    try:
        pid_file.write_text("\n".join([str(other.pid), *content[1:]]) + "\n")
        with RunningPostgres(directory) as running:
            assert value(running.cluster.maintenance_dsn, "SELECT 1") == 1
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
def test_postgres_ends_when_its_supervisor_is_killed_with_9(directory: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from meshkit.supervisor.postgres import RunningPostgres\n"
        "with RunningPostgres(Path(sys.argv[1])) as running:\n"
        "    print(running.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(directory)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    if psutil.pid_exists(pid):
        assert wait_ended(psutil.Process(pid), 10)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to drop to another account")
def test_below_a_directory_only_root_may_enter_postgres_lies_elsewhere(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="citemesh-test-") as elsewhere:
        Path(elsewhere).chmod(0o711)
        monkeypatch.setattr(cluster_module, "ELSEWHERE", Path(elsewhere))
        directory.parent.parent.chmod(0o700)
        for _ in range(2):
            with RunningPostgres(directory) as running:
                assert running.cluster.home.parent == Path(elsewhere)
                assert value(running.cluster.maintenance_dsn, "SELECT 1") == 1
        assert directory.parent.parent.stat().st_mode & 0o777 == 0o700
        assert len(list(Path(elsewhere).iterdir())) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to drop to another account")
def test_programs_out_of_the_account_s_reach_are_copied_once(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meshkit.supervisor.postgres import binaries

    monkeypatch.setattr(binaries, "can_reach", lambda path, account: False)
    for _ in range(2):
        with RunningPostgres(directory) as running:
            program = Path(psutil.Process(running.pid).exe())
            assert program.is_relative_to(running.cluster.home / "install")
            assert asyncio.run(check_vector(running.cluster.maintenance_dsn))


def test_reach_needs_every_directory_on_the_way(tmp_path: Path) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    owner = Account(inner.stat().st_uid, inner.stat().st_gid)
    stranger = Account(owner.uid + 12345, owner.gid + 12345)
    inner.parent.chmod(0o700)
    assert can_reach(inner, owner)
    assert not can_reach(inner, stranger)
