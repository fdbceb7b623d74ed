"""`make demo`: the whole mesh, the sample documents, one cited answer, and a console to go on with.

Everything lives in a temporary directory that is removed at the end, so a demo
touches no mesh of yours and leaves nothing behind. It uses only what a user has:
the commands `citemesh up`, `ingest` and `ask`, and the REST interface.

With `CITEMESH_DEMO_EXIT=1` it ends after the answer; exit code 0 then means that
an answer came. Documents, question and port can be chosen:

    python -m tools.demo --port 8090 --documents ~/papers "Who wrote the first one?"
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "tests" / "samples"
QUESTION = "How many days of paid vacation do employees get after five years?"
READY_WITHIN_S = 600.0
"""Generous: the first start fetches the weights of the models."""
POLL_S = 0.2
STOP_WITHIN_S = 60.0


class DemoFailed(Exception):
    """The demo cannot go on; the text says why."""


class Mesh:
    """A mesh in a directory of its own, from `citemesh up`."""

    def __init__(self, directory: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._directory = directory
        self._log = directory / "demo.log"
        command = [
            *(sys.executable, "-m", "meshkit.supervisor.launch", "program"),
            str(Path(sys.executable).with_name("citemesh")),
            *("up", "--port", str(port), "--data", str(directory / "data")),
        ]
        # A session of its own: Ctrl-C in the terminal reaches this program alone, which
        # then stops the mesh once and waits. Should this program be killed, the launcher
        # has asked the kernel to stop the mesh all the same.
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, "CITEMESH_SUPERVISOR_PID": str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Returns when the gateway says that every part is ready."""
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._is_ready():
            if self._process.poll() is not None:
                raise DemoFailed(f"The mesh did not start:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise DemoFailed(f"The mesh was not ready in time:\n{self.tail()}")
            time.sleep(POLL_S)

    def _is_ready(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.url}/readyz", timeout=5) as response:
                # Another program may sit on the port and say 200 to anything.
                return bool(response.status == 200 and self._key_file.exists())
        except (urllib.error.URLError, OSError):
            return False

    @property
    def _key_file(self) -> Path:
        return self._directory / "data" / "api_key"

    @property
    def key(self) -> str:
        """API key of the project that the mesh made for itself."""
        return self._key_file.read_text("utf-8").strip()

    def command(self, *arguments: str) -> None:
        """Runs `citemesh ARGUMENTS` against this mesh, its output on ours."""
        program = str(Path(sys.executable).with_name("citemesh"))
        environment = {**os.environ, "CITEMESH_API_KEY": self.key}
        print(f"$ citemesh {' '.join(quoted(a) for a in arguments)}", flush=True)
        done = subprocess.run(
            [program, *arguments, "--url", self.url], env=environment, cwd=ROOT, check=False
        )
        if done.returncode:
            raise DemoFailed(
                f"citemesh {arguments[0]} ended with {done.returncode}.\n{self.tail()}"
            )
        print(flush=True)

    def wait(self) -> None:
        """Returns when the mesh ends by itself."""
        self._process.wait()

    def stop(self) -> None:
        """Stops the mesh and waits until all of it is gone."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            # The parts die with their supervisor.
            self._process.kill()
            self._process.wait()

    def keep_logs(self) -> Path:
        """Copies the logs to where they stay, for whoever looks into a failure."""
        target = ROOT / "reports" / "demo"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        shutil.copy2(self._log, target)
        logs = self._directory / "data" / "logs"
        if logs.is_dir():
            shutil.copytree(logs, target, dirs_exist_ok=True)
        return target

    def tail(self, lines: int = 30) -> str:
        """The last lines the mesh wrote."""
        return "\n".join(self._log.read_text("utf-8", errors="replace").splitlines()[-lines:])


def quoted(argument: str) -> str:
    """An argument as one would type it."""
    return f'"{argument}"' if " " in argument else argument


def run(mesh: Mesh, documents: Path, question: str) -> None:
    """Loads the documents, asks the question and, unless told otherwise, stays."""
    print("Starting the mesh: Postgres, six services, the gateway ...", flush=True)
    mesh.wait_until_ready()
    shown = documents.relative_to(ROOT) if documents.is_relative_to(ROOT) else documents
    mesh.command("ingest", str(shown), "--wait")
    mesh.command("ask", question)
    if os.environ.get("CITEMESH_DEMO_EXIT", "") not in ("", "0"):
        return
    print(f"The console is at {mesh.url}/ with the key {mesh.key}")
    print("Ctrl-C stops everything and removes this demo's data.", flush=True)
    mesh.wait()
    raise DemoFailed(f"The mesh ended:\n{mesh.tail()}")


def stop_on_signal(number: int, _frame: object) -> None:
    """Ends the program by an exception, so that everything is put away."""
    raise SystemExit(128 + number)


def main() -> int:
    """Parses the command line and runs the demo; 1 when no answer came."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", nargs="?", default=QUESTION)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--documents", type=Path, default=SAMPLES)
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop_on_signal)
    # A shell starts what it puts into the background deaf to SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    directory = Path(tempfile.mkdtemp(prefix="citemesh-demo-"))
    # Postgres may run as another account, which must be able to reach its files.
    directory.chmod(0o711)
    mesh = Mesh(directory, arguments.port)
    try:
        run(mesh, arguments.documents.resolve(), arguments.question)
    except DemoFailed as failure:
        print(f"{failure}\nAll of its logs are in {mesh.keep_logs()}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopping ...", flush=True)
    finally:
        # A second Ctrl-C out of impatience must not leave half of it running.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        mesh.stop()
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
