"""Starts a service as the process it is, and calls it as another service would."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from meshkit.channel import MeshChannel
from meshkit.components import BY_NAME
from meshkit.context import RequestContext, acting_as
from meshkit.identity import Signer, create_keyring
from meshkit.ids import new_id
from meshkit.project import DEFAULTS, ProjectSettings

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
START_SECONDS = 60


class DidNotStart(AssertionError):
    """The process ended before it served; `output` is what it said."""

    def __init__(self, code: int | None, output: str) -> None:
        super().__init__(output)
        self.code = code
        self.output = output


@dataclass(slots=True)
class ServiceProcess:
    """A running service."""

    channel: MeshChannel
    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)


class Keys:
    """Who may call: the gateway for a user, a service for itself."""

    def __init__(self, directory: Path) -> None:
        create_keyring(directory, ["gateway", "ingestion", "retrieval"])
        self.directory = directory
        self.keyring = directory / "keyring.json"
        self._user = Signer.load(directory / "gateway.key")
        self._service = Signer.load(directory / "ingestion.key")

    def user(
        self, project_id: str, *scopes: str, settings: ProjectSettings = DEFAULTS
    ) -> RequestContext:
        """A context as the gateway signs it."""
        return self._user.sign(
            project_id=project_id,
            principals=["user:ann"],
            scopes=scopes,
            subject="key:ann",
            request_id=new_id("req"),
            settings=settings,
        )

    def service(self, project_id: str) -> RequestContext:
        """A context as ingestion signs it for its own work."""
        return self._service.sign_background(project_id, [], new_id("req"))

    @contextmanager
    def asking(self, project_id: str, *scopes: str) -> Iterator[RequestContext]:
        """Makes calls inside the block those of a user."""
        with acting_as(self.user(project_id, *(scopes or ("read",)))) as context:
            yield context


@asynccontextmanager
async def running(
    component: str, postgres: Any, keys: Keys, **environment: str
) -> AsyncIterator[ServiceProcess]:
    """Runs a component until the block ends; then SIGTERM, and exit code 0 is demanded.

    Raises:
        DidNotStart: with what the process said.
    """
    known = BY_NAME[component]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        known.module,
        env=_environment(known.environment, postgres.dsn(known.service), keys, environment),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    lines: list[str] = []
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    reading = asyncio.create_task(_read(process, lines, port))
    try:
        async with asyncio.timeout(START_SECONDS):
            await asyncio.wait({reading, port}, return_when=asyncio.FIRST_COMPLETED)
        if not port.done():
            raise DidNotStart(await process.wait(), "\n".join(lines))
        channel = MeshChannel(f"127.0.0.1:{port.result()}", known.grpc_service)
        try:
            yield ServiceProcess(channel, process, lines)
        finally:
            await channel.close()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(START_SECONDS):
            assert await process.wait() == 0, "\n".join(lines)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def eventually(
    condition: Callable[[], Awaitable[T]], seconds: float = 60, *, every: float = 0.05
) -> T:
    """The first true result of a condition that is asked again and again until its deadline."""
    async with asyncio.timeout(seconds):
        while True:
            if found := await condition():
                return found
            await asyncio.sleep(every)


def _environment(
    component: Mapping[str, str], dsn: str, keys: Keys, own: Mapping[str, str]
) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("CITEMESH_", "OTEL_"))}
    weights = {k: v for k, v in os.environ.items() if k.startswith("CITEMESH_WEIGHTS_")}
    return {
        **inherited,
        **weights,
        **component,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "libs")]),
        "CITEMESH_DATABASE_URL": dsn,
        "CITEMESH_IDENTITY_KEYS": str(keys.keyring),
        "CITEMESH_RETRIEVAL_SIGNING_KEY": str(keys.directory / "retrieval.key"),
        **own,
    }


async def _read(
    process: asyncio.subprocess.Process, lines: list[str], port: asyncio.Future[int]
) -> None:
    assert process.stdout is not None
    async for raw in process.stdout:
        line = raw.decode("utf-8", "replace").rstrip()
        lines.append(line)
        if '"serving"' in line and not port.done():
            port.set_result(int(json.loads(line)["port"]))
