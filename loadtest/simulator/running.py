"""The simulator as tests and measurements use it: started, commanded, asked what was called."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from meshkit.providers.settings import Access
from meshkit.supervisor import ports

PROVIDERS = ("gemini", "cohere", "anthropic")
READY_WITHIN_S = 90.0


@dataclass(frozen=True, slots=True)
class RunningSimulator:
    """A simulator that answers."""

    url: str
    http: httpx.Client

    @classmethod
    @contextmanager
    def start(cls, *options: str) -> Iterator[RunningSimulator]:
        """Starts one on a free port; it ends with the block."""
        port = ports.pick()
        # Launched as the supervisor launches its children: it ends with this process, however.
        command = [sys.executable, "-m", "meshkit.supervisor.launch", "module"]
        command += ["loadtest.simulator", "--listen", f"127.0.0.1:{port}", *options]
        tied = {"CITEMESH_SUPERVISOR_PID": str(os.getpid())}
        process = subprocess.Popen(command, env=os.environ | tied, stdin=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{port}"
        try:
            with httpx.Client(base_url=f"{url}/_simulator", trust_env=False, timeout=10) as http:
                deadline = time.monotonic() + READY_WITHIN_S
                while True:
                    try:
                        http.get("/clock").raise_for_status()
                        break
                    except httpx.TransportError:
                        if process.poll() is not None or time.monotonic() > deadline:
                            raise RuntimeError("the simulator does not answer") from None
                        time.sleep(0.05)
                yield cls(url, http)
        finally:
            process.terminate()
            process.wait(10)

    @classmethod
    def at(cls, address: str) -> RunningSimulator:
        """One that was started by somebody else, `host:port`."""
        url = f"http://{address}"
        return cls(url, httpx.Client(base_url=f"{url}/_simulator", trust_env=False, timeout=10))

    def access(self, provider: str, key: str = "test-key") -> Access:
        """How an adapter reaches a provider here."""
        return Access(provider, key, f"{self.url}/{provider}")

    def secure_access(self, provider: str) -> Access:
        """The same over HTTPS; needs `--tls`, and `authority` to be trusted."""
        port = self.http.get("/tls").json()["ports"][provider]
        return Access(provider, "test-key", f"https://127.0.0.1:{port}/{provider}")

    @property
    def authority(self) -> str:
        """File of the certificate to trust."""
        found: str = self.http.get("/tls").json()["authority"]
        return found

    def environment(self) -> dict[str, str]:
        """Variables that point a process of the mesh here."""
        found: dict[str, str] = {}
        for provider in PROVIDERS:
            found[f"CITEMESH_{provider.upper()}_BASE_URL"] = f"{self.url}/{provider}"
            found[f"{provider.upper()}_API_KEY"] = f"test-key-of-{provider}"
        return found

    def secure_environment(self) -> dict[str, str]:
        """The same over HTTPS, which the process then trusts; needs `--tls`."""
        found = self.environment() | {"SSL_CERT_FILE": self.authority}
        for provider in PROVIDERS:
            access = self.secure_access(provider)
            found[f"CITEMESH_{provider.upper()}_BASE_URL"] = access.base_url
        return found

    def fault(self, kind: str, **values: Any) -> None:
        """Sets a fault; see `loadtest.simulator.faults.Fault`."""
        answer = self.http.post("/faults", json={"kind": kind, **values})
        answer.raise_for_status()

    def clear_faults(self) -> None:
        """Removes every fault."""
        self.http.delete("/faults").raise_for_status()

    def quota(self, **values: Any) -> None:
        """Sets the one quota there is."""
        self.http.put("/quotas", json=[values]).raise_for_status()

    def pace(self, **operations: dict[str, float]) -> None:
        """Sets how fast operations are."""
        self.http.put("/pace", json=operations).raise_for_status()

    def counts(self, provider: str, operation: str) -> dict[str, int]:
        """Calls of a provider's operation, by how they ended."""
        found: dict[str, dict[str, int]] = self.http.get("/calls").json()["counts"]
        return found.get(f"{provider}/{operation}", {})

    def connections(self, provider: str) -> list[str]:
        """By which connection each call of a provider came, in order."""
        listed = self.http.get("/calls").json()["calls"]
        return [each["connection"] for each in listed if each["call"]["provider"] == provider]

    def retries(self, provider: str, operation: str) -> int:
        """Calls of a provider's operation beyond its first since the last reset; `*` is all."""
        counted: dict[str, dict[str, int]] = self.http.get("/calls").json()["counts"]
        return sum(
            tally["calls"] - 1
            for name, tally in counted.items()
            if provider in ("*", name.partition("/")[0])
            and operation in ("*", name.partition("/")[2])
        )

    def reset(self) -> None:
        """As it was at the start, at full speed."""
        self.http.post("/reset").raise_for_status()
        self.pace(embed={}, rerank={}, generate={})
