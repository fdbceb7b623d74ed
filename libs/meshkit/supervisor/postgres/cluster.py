"""One embedded Postgres cluster: where it lies, how it is created, how it is started.

    <data>/postgres/
        location          only when the cluster had to lie elsewhere: where
        port              chosen once, kept as long as it is free
        credentials.json  0600: the superuser's password and one for each runtime role
    <home>/               <data>/postgres, or the directory named in `location`
        cluster/          PGDATA, 0700, owned by the account Postgres runs as
        install/          a copy of the programs, only when they were out of that account's reach

A `Cluster` starts no process that stays: it says what to run (`command`) and whether it is ready
(`is_ready`). The supervisor and the test fixtures each keep the process in their own way.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

import psutil

from meshkit.supervisor import ports
from meshkit.supervisor.launch import NOT_RUNNABLE
from meshkit.supervisor.postgres.account import can_reach, hand_over, unprivileged_account
from meshkit.supervisor.postgres.binaries import bin_directory
from meshkit.supervisor.postgres.configuration import arguments
from meshkit.supervisor.postgres.errors import PostgresError
from meshkit.supervisor.processes import wait_ended

SUPERUSER = "citemesh_admin"
DATABASE = "citemesh"
CREDENTIALS = "credentials.json"
STOP_SIGNAL = signal.SIGINT
"""Postgres' fast shutdown: sessions are ended, a checkpoint is written."""
LEFTOVER_GRACE_S = 20.0
ELSEWHERE = Path("/var/lib/citemesh")
"""For a cluster whose data directory lies below a directory only root may enter."""


class Cluster:
    """The embedded Postgres of one data directory.

    Args:
        directory: `<data>/postgres`; created when it is missing.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.account = unprivileged_account()
        self.home = self.directory
        self.port = 0
        self._bin = Path()
        self._passwords: dict[str, str] = {}

    @property
    def data(self) -> Path:
        """PGDATA."""
        return self.home / "cluster"

    @classmethod
    def attach(cls, directory: Path) -> Cluster:
        """A cluster that somebody else runs, to connect to: nothing of it is touched.

        Raises:
            PostgresError: there is none.
        """
        cluster = cls(directory)
        pointer, credentials = cluster.directory / "location", cluster.directory / CREDENTIALS
        try:
            cluster.home = Path(pointer.read_text().strip()) if pointer.exists() else cluster.home
            cluster._passwords = json.loads(credentials.read_text())
            cluster.port = int((cluster.directory / "port").read_text())
        except (OSError, ValueError) as error:
            raise PostgresError(
                "POSTGRES_MISSING", f"{directory} holds no cluster that was started before."
            ) from error
        return cluster

    # -- preparing -------------------------------------------------------------------------------

    def prepare(self, roles: Iterable[str] = (), taken_ports: Iterable[int] = ()) -> None:
        """Makes the cluster ready to be started: programs, initdb, credentials, a free port.

        Blocks for about 0.5 s the first time. Whoever calls holds the lock of the data directory:
        a Postgres that still runs there is taken for a leftover and ended (use `attach` to reach
        one that is in use).

        Args:
            roles: runtime roles that need a password.
            taken_ports: ports promised to others that do not listen yet.

        Raises:
            PostgresError: the programs are missing, do not run, or do not fit the cluster.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self.home = self._choose_home()
        self._bin = bin_directory(self.account, self.home / "install")
        self._load_credentials(roles)
        if not (self.data / "PG_VERSION").exists():
            self._initdb()
        self._check_version()
        self.clear_leftover()
        self.port = self._choose_port(taken_ports)

    def _choose_home(self) -> Path:
        pointer = self.directory / "location"
        if pointer.exists():
            return Path(pointer.read_text().strip())
        if self.account is None:
            return self.directory
        for ours in (self.directory, self.directory.parent):
            ours.chmod(ours.stat().st_mode | 0o011)
        if can_reach(self.directory, self.account):
            return self.directory
        home = ELSEWHERE / secrets.token_hex(6)
        home.mkdir(mode=0o711, parents=True)
        (home / "belongs-to").write_text(f"{self.directory}\n")
        pointer.write_text(f"{home}\n")
        return home

    def _load_credentials(self, roles: Iterable[str]) -> None:
        path = self.directory / CREDENTIALS
        if path.exists():
            self._passwords = json.loads(path.read_text())
        elif (self.data / "PG_VERSION").exists():
            raise PostgresError(
                "POSTGRES_CREDENTIALS_MISSING",
                f"{self.data} holds a cluster but {path} is gone: restore that file.",
            )
        missing = [name for name in (SUPERUSER, *roles) if name not in self._passwords]
        if missing:
            self._passwords |= {name: secrets.token_urlsafe(24) for name in missing}
            _write_private(path, json.dumps(self._passwords, indent=1))

    def _initdb(self) -> None:
        """Creates the cluster under another name first, so that half of one is never started."""
        partial = self.home / "cluster.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        hand_over(partial, self.account)
        password_file = self.home / "initdb.password"
        _write_private(password_file, self._passwords[SUPERUSER])
        hand_over(password_file, self.account)
        try:
            self._run(
                "initdb",
                f"--pgdata={partial}",
                f"--username={SUPERUSER}",
                f"--pwfile={password_file}",
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--locale=C.UTF-8",
                "--auth=scram-sha-256",
                "--data-checksums",
            )
        finally:
            password_file.unlink()
        partial.rename(self.data)

    def _run(self, program: str, *args: str) -> str:
        """Runs a program of Postgres as its account.

        The launcher changes the account after exec: changed between fork and exec, the child ran
        gRPC's fork handlers and crashed.
        """
        done = subprocess.run(
            self._launched(program, *args),
            env=self.launch_environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode == NOT_RUNNABLE:
            raise PostgresError(
                "POSTGRES_NOT_RUNNABLE",
                f"The bundled Postgres program {program} does not run on this machine: "
                f"{done.stdout.strip()}; set CITEMESH_DATABASE_URL to a Postgres of your own.",
            )
        if done.returncode != 0:
            last = (done.stdout.strip().splitlines() or ["no output"])[-1]
            raise PostgresError("POSTGRES_SETUP_FAILED", f"{program} failed: {last}")
        return str(done.stdout)

    def _check_version(self) -> None:
        cluster = (self.data / "PG_VERSION").read_text().strip()
        program = self._run("postgres", "--version").split()[-1]
        if program.split(".")[0] != cluster:
            raise PostgresError(
                "POSTGRES_VERSION_CHANGED",
                f"{self.data} was created by Postgres {cluster} and the installed one is "
                f"{program}: dump it with the old version and load it into a new data directory.",
            )

    def _choose_port(self, taken: Iterable[int]) -> int:
        path = self.directory / "port"
        excluded = set(taken)
        if path.exists():
            port = int(path.read_text())
            if port not in excluded and ports.is_free(port):
                return port
        port = ports.pick(excluded)
        path.write_text(f"{port}\n")
        return port

    # -- what an earlier supervisor left ---------------------------------------------------------

    def clear_leftover(self) -> None:
        """Ends a Postgres that outlived its supervisor and forgets a dead one.

        After `kill -9` of the supervisor Postgres is still shutting down for a moment; after
        `kill -9` of Postgres, or a crash of the machine, `postmaster.pid` names a process that is
        dead or is someone else by now, which Postgres itself cannot always tell.

        Raises:
            PostgresError: it does not end.
        """
        pid_file = self.data / "postmaster.pid"
        leftover = self._leftover()
        if leftover is not None:
            for number, grace in ((STOP_SIGNAL, LEFTOVER_GRACE_S), (signal.SIGQUIT, 5.0)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    leftover.send_signal(number)
                if wait_ended(leftover, grace):
                    break
            else:
                raise PostgresError(
                    "POSTGRES_STILL_RUNNING",
                    f"Process {leftover.pid} still runs on {self.data} and does not end.",
                )
        pid_file.unlink(missing_ok=True)
        self._await_backends()

    def _leftover(self) -> psutil.Process | None:
        try:
            pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
            process = psutil.Process(pid)
            if process.cwd() == str(self.data.resolve()) and process.name() == "postgres":
                return process
        except (FileNotFoundError, ValueError, IndexError, psutil.Error):
            return None
        return None

    def _await_backends(self) -> None:
        """Waits for the children of a postmaster that was killed with -9.

        They notice within about 0.2 s; until then they hold the shared memory and a new
        postmaster refuses to start.
        """
        here = str(self.data.resolve())
        orphans = []
        for process in psutil.process_iter(["name"]):
            if process.info["name"] == "postgres":
                try:
                    if process.cwd() == here:
                        orphans.append(process)
                except psutil.Error:
                    continue
        for process in orphans:
            if not wait_ended(process, 5):
                process.kill()
                wait_ended(process, 5)

    # -- running ---------------------------------------------------------------------------------

    def command(self) -> list[str]:
        """What to run; it goes through `meshkit.supervisor.launch` to die with its parent."""
        return self._launched("postgres", "-D", str(self.data), *arguments(self.port))

    def _launched(self, program: str, *args: str) -> list[str]:
        launcher = [sys.executable, "-P", "-m", "meshkit.supervisor.launch", "program"]
        return [*launcher, str(self._bin / program), *args]

    def environment(self) -> Mapping[str, str]:
        """Its environment: nothing of the caller's, whose secrets are none of its business."""
        names = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        inherited = ("PYTHONPATH", "VIRTUAL_ENV", "DYLD_LIBRARY_PATH")
        names |= {name: os.environ[name] for name in inherited if name in os.environ}
        return names

    def launch_environment(self) -> dict[str, str]:
        """`environment` and what the launcher reads: the account, the signal to stop by."""
        names = dict(self.environment())
        names["CITEMESH_LAUNCH_DEATH_SIGNAL"] = str(int(STOP_SIGNAL))
        names["CITEMESH_SUPERVISOR_PID"] = str(os.getpid())
        if self.account is not None:
            names["CITEMESH_LAUNCH_UID"] = str(self.account.uid)
            names["CITEMESH_LAUNCH_GID"] = str(self.account.gid)
        return names

    def is_ready(self) -> bool:
        """Whether the postmaster says it accepts connections (line 8 of its pid file)."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[3] == str(self.port) and lines[7].strip() == "ready"

    def wait_ready(self, timeout: float, alive: subprocess.Popen[bytes] | None = None) -> None:
        """Blocks until `is_ready`, for callers without an event loop.

        Raises:
            PostgresError: it ended, or was not ready in `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not self.is_ready():
            if alive is not None and alive.poll() is not None:
                raise PostgresError("POSTGRES_NOT_STARTED", "Postgres ended while starting.")
            if time.monotonic() > deadline:
                raise PostgresError(
                    "POSTGRES_NOT_STARTED", f"Postgres was not ready after {timeout:g} s."
                )
            time.sleep(0.01)

    # -- addresses -------------------------------------------------------------------------------

    def dsn(self, role: str, database: str = DATABASE) -> str:
        """URL for `role`, with its password: hand it on in the environment only."""
        password = quote(self._passwords[role], safe="")
        return f"postgresql://{role}:{password}@{ports.LOOPBACK}:{self.port}/{database}"

    @property
    def admin_dsn(self) -> str:
        """URL of the superuser on the database of the mesh."""
        return self.dsn(SUPERUSER)

    @property
    def maintenance_dsn(self) -> str:
        """URL of the superuser on the database that always exists."""
        return self.dsn(SUPERUSER, "postgres")

    @property
    def passwords(self) -> Mapping[str, str]:
        """Password of each runtime role."""
        return {name: value for name, value in self._passwords.items() if name != SUPERUSER}


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
