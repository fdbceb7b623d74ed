"""A Postgres that runs as long as a `with` block: for tests and one-off commands."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from meshkit.supervisor.postgres.cluster import STOP_SIGNAL, Cluster
from meshkit.supervisor.postgres.errors import PostgresError

STOP_GRACE_S = 20.0


class RunningPostgres:
    """Starts the cluster of `directory` on entry and stops it on exit.

    Enter it in the main thread: on Linux Postgres ends with the thread that started it.
    """

    def __init__(self, directory: Path, roles: Iterable[str] = ()) -> None:
        self.cluster = Cluster(directory)
        self._roles = tuple(roles)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        cluster = self.cluster
        cluster.prepare(self._roles)
        log = (cluster.directory / "postgres.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                cluster.command(),
                env=cluster.launch_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            cluster.wait_ready(30, self._process)
        except PostgresError:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        if self._process is None:
            raise PostgresError("POSTGRES_NOT_STARTED", "Postgres is not running.")
        return self._process.pid

    def stop(self) -> None:
        """Fast shutdown; returns when the process is gone."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(STOP_SIGNAL)
        try:
            process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
