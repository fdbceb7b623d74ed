"""`make traces`: a viewer for traces, and a mesh that sends its traces there.

    python -m tools.traces --port 8080 --data .citemesh

The viewer is Phoenix. It has an environment of its own, made the first time: it is large, and its
licence (Elastic License 2.0) is not one that citemesh installs by itself. Its database lies in
`traces.phoenix` below the data directory. Ctrl-C stops both.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from meshkit.supervisor import ports

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv-phoenix"
REQUIREMENT = "arize-phoenix>=20,<21"
VIEWER_PORT = 6006
READY_WITHIN_S = 900.0
"""Its first start migrates a new database: 10 s, minutes on a busy machine."""
POLL_S = 0.2
STOP_WITHIN_S = 60.0


class TracesFailed(Exception):
    """Something did not start; the text says what."""


def installed() -> Path:
    """The viewer's program, installed when it is not there yet.

    Raises:
        TracesFailed: it could not be installed.
    """
    program = ENVIRONMENT / "bin" / "phoenix"
    if program.exists():
        return program
    print(
        f"Installing Phoenix into {ENVIRONMENT.name} (about 900 MB, once).\n"
        "Its licence is the Elastic License 2.0: use it, do not offer it as a service.",
        flush=True,
    )
    steps = (
        (sys.executable, "-m", "venv", str(ENVIRONMENT)),
        (str(ENVIRONMENT / "bin" / "pip"), "install", "--quiet", REQUIREMENT),
    )
    for step in steps:
        if subprocess.run(step, check=False).returncode:
            raise TracesFailed(f"Phoenix could not be installed: {' '.join(step)}")
    return program


def answers(url: str) -> bool:
    """Whether somebody serves a page there."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def start_viewer(program: Path, data: Path, port: int, receiver: int) -> subprocess.Popen[bytes]:
    """The viewer, once it serves.

    Args:
        program: Phoenix.
        data: Where it keeps its database and its log.
        port: Of its pages.
        receiver: Of its OTLP end point.

    Raises:
        TracesFailed: it does not.
    """
    folder = data / "traces.phoenix"
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        "PHOENIX_WORKING_DIR": str(folder.resolve()),
        "PHOENIX_HOST": ports.LOOPBACK,
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(receiver),
        # It sends nothing about its use to anybody.
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
    }
    log = folder / "phoenix.log"
    with log.open("wb") as output:
        viewer = subprocess.Popen(
            (str(program), "serve"),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches this program, which stops it after the mesh has sent its last spans.
            start_new_session=True,
        )
    deadline = time.monotonic() + READY_WITHIN_S
    while not answers(f"http://{ports.LOOPBACK}:{port}/"):
        if viewer.poll() is not None:
            raise TracesFailed(f"Phoenix ended with {viewer.returncode}; see {log}.")
        if time.monotonic() > deadline:
            stop(viewer)
            raise TracesFailed(f"Phoenix does not answer; see {log}.")
        time.sleep(POLL_S)
    return viewer


def mesh_environment(receiver: int) -> dict[str, str]:
    """What makes a mesh send every trace to the viewer, which takes no metrics."""
    defaults = {"OTEL_TRACES_SAMPLER": "parentbased_always_on", "OTEL_BSP_SCHEDULE_DELAY": "1000"}
    fixed = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{ports.LOOPBACK}:{receiver}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_METRICS_EXPORTER": "none",
    }
    return {**defaults, **os.environ, **fixed}


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and waits for it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def stop_on_signal(number: int, _frame: object) -> None:
    """Ends the program by an exception, so that everything is put away."""
    raise SystemExit(128 + number)


def run(arguments: argparse.Namespace) -> int:
    """Viewer and mesh until one of them ends; the mesh's exit code."""
    program = installed()
    for port in (arguments.viewer_port, arguments.port):
        if not ports.is_free(port, ports.LOOPBACK):
            raise TracesFailed(f"Port {port} is in use by another program.")
    receiver = ports.pick({arguments.port, arguments.viewer_port})
    viewer = start_viewer(program, arguments.data, arguments.viewer_port, receiver)
    mesh = None
    try:
        print(f"Traces are shown at http://{ports.LOOPBACK}:{arguments.viewer_port}/", flush=True)
        citemesh = str(Path(sys.executable).with_name("citemesh"))
        command = (citemesh, "up", "--port", str(arguments.port), "--data", str(arguments.data))
        mesh = subprocess.Popen(
            command,
            env=mesh_environment(receiver),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        while mesh.poll() is None:
            if viewer.poll() is not None:
                raise TracesFailed(f"Phoenix ended with {viewer.returncode}.")
            time.sleep(POLL_S)
        return mesh.returncode
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if mesh is not None:
            stop(mesh)
        stop(viewer)


def main() -> int:
    """Parses the command line and runs; 1 when something did not start."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8080, help="of the gateway")
    parser.add_argument("--data", type=Path, default=Path(".citemesh"), help="of the mesh")
    parser.add_argument("--viewer-port", type=int, default=VIEWER_PORT, help="of the viewer")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop_on_signal)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return run(arguments)
    except TracesFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
