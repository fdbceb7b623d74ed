"""`citemesh up`, `down` and `status`: the mesh on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from meshkit.cli.failure import CommandFailed
from meshkit.cli.options import AsJson, Data, Url

Port = Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the gateway.")]
Host = Annotated[str, typer.Option("--host", help="Address the gateway listens on.")]
Simulate = Annotated[
    bool, typer.Option("--simulate", help="Providers are simulated: no key, no cost.")
]
Detach = Annotated[bool, typer.Option("--detach", help="Return when ready; go on in background.")]


def up(
    port: Port = 8080,
    data: Data = None,
    detach: Detach = False,
    host: Host = "127.0.0.1",
    simulate: Simulate = False,
) -> None:
    """Start everything on this machine: Postgres, the services, the gateway. Ctrl-C stops it."""
    import asyncio

    from meshkit.supervisor.child import ChildFailed
    from meshkit.supervisor.detach import detach as run_detached
    from meshkit.supervisor.detach import ready_fd
    from meshkit.supervisor.layout import DataDirectory, DirectoryHeld, holder
    from meshkit.supervisor.mesh import Options, PortTaken, StartFailed, Supervisor
    from meshkit.supervisor.postgres import PostgresError

    directory = DataDirectory.at(data)
    if detach and (found := holder(directory)) is not None:
        raise CommandFailed(str(DirectoryHeld(directory.root, found)), "DATA_DIRECTORY_HELD")
    try:
        if detach:
            arguments = ["--port", str(port), "--host", host, "--data", str(directory.root)]
            pid = run_detached(directory, arguments + ["--simulate"] * simulate)
            print(f"The mesh is ready at http://{host}:{port} (process {pid}).")
            print(f"`citemesh down --data {directory.root}` stops it.")
            return
        reporting = ready_fd()
        options = Options(
            directory,
            port,
            host,
            quiet=reporting is not None,
            simulate=simulate,
            ready_fd=reporting,
        )

        async def run() -> None:
            await Supervisor(options).run()

        asyncio.run(run())
    except DirectoryHeld as error:
        raise CommandFailed(str(error), "DATA_DIRECTORY_HELD") from error
    except PortTaken as error:
        raise CommandFailed(str(error), "PORT_TAKEN") from error
    except PostgresError as error:
        raise CommandFailed(error.detail, error.reason) from error
    except (StartFailed, ChildFailed) as error:
        raise CommandFailed(str(error), "START_FAILED") from error
    except OSError as error:
        raise CommandFailed(
            f"The mesh cannot start: {error.strerror}: {error.filename or directory.root}.",
            "START_FAILED",
        ) from error


def down(data: Data = None) -> None:
    """Stop the mesh of a data directory and wait until all of it is gone."""
    from meshkit.supervisor.down import StillRunning
    from meshkit.supervisor.down import down as stop
    from meshkit.supervisor.layout import DataDirectory

    directory = DataDirectory.at(data)
    try:
        found = stop(directory)
    except StillRunning as error:
        raise CommandFailed(f"{str(error).capitalize()}.", "STILL_RUNNING") from error
    if found is None:
        print(f"No mesh runs on {directory.root}.")
    else:
        print(f"The mesh at {found.url} is stopped.")


def status(url: Url = None, data: Data = None, as_json: AsJson = False) -> None:
    """Show every service of a mesh: health, version, restarts, memory, load."""
    from meshkit.cli.status import local_status, remote_status
    from meshkit.supervisor.layout import DataDirectory, holder

    directory = DataDirectory.at(data)
    running = holder(directory)
    if running is not None and url in (None, running.url):
        local_status(directory, running, as_json=as_json)
    elif url is not None:
        remote_status(url, as_json=as_json)
    else:
        raise CommandFailed(
            f"No mesh runs on {directory.root}: start one with `citemesh up`, or name one with "
            "--url.",
            "MESH_NOT_RUNNING",
        )
