"""What each child is told: addresses of the others, its own keys and database, nothing else's.

Secrets travel in the environment of exactly the process that needs them, never on a command line.
Whatever the user set in the environment of `citemesh up` reaches the services too and wins over
the defaults of an embedded mesh; what belongs to another service, or to the supervisor, does not.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from meshkit.components import COMPONENTS, GATEWAY, Component
from meshkit.supervisor import ports
from meshkit.supervisor.layout import DataDirectory
from meshkit.supervisor.simulator import Simulator

NOT_FOR_CHILDREN = re.compile(
    r"CITEMESH_(API_KEY|URL|LAUNCH_\w+|SUPERVISOR_\w+|READY_FD|ROLE_PASSWORDS"
    r"|ADMIN_DATABASE_URL|\w*DATABASE_URL|(\w+_)?TLS_\w+_FILE|(\w+_)?HEALTH_LISTEN)$"
)
OPENSEARCH = re.compile(r"CITEMESH_(RETRIEVAL_)?OPENSEARCH_")
"""Address and credentials of OpenSearch, for retrieval alone."""
PROVIDER_KEYS = ("GEMINI_API_KEY", "COHERE_API_KEY", "CO_API_KEY", "ANTHROPIC_API_KEY")
"""For the processes that call providers and no other."""
DRAIN_SECONDS = 10.0
"""How long a call in flight may take to end when an embedded mesh stops."""


def launcher(module: str, *args: str) -> list[str]:
    """The command that runs a module tied to the supervisor's life (see `launch`).

    `-P` keeps the directory the user stands in from shadowing our modules.
    """
    return [sys.executable, "-P", "-m", "meshkit.supervisor.launch", "module", module, *args]


def pick_addresses(host: str, gateway_port: int) -> dict[str, str]:
    """An address for every component: the gateway's is asked for, the others' are free ports."""
    taken = {gateway_port}
    addresses = {}
    for component in COMPONENTS:
        if component.name == GATEWAY.name:
            addresses[component.name] = f"{host}:{gateway_port}"
            continue
        port = ports.pick(taken)
        taken.add(port)
        addresses[component.name] = f"{ports.LOOPBACK}:{port}"
    return addresses


def inherited() -> dict[str, str]:
    """The supervisor's own environment without what is not for every child."""
    return {
        name: value
        for name, value in os.environ.items()
        if not NOT_FOR_CHILDREN.match(name) and name not in PROVIDER_KEYS
    }


def provider_keys() -> dict[str, str]:
    """The keys of providers in the supervisor's own environment."""
    return {name: os.environ[name] for name in PROVIDER_KEYS if name in os.environ}


@dataclass(frozen=True, slots=True)
class Environments:
    """Makes the environment of each child.

    Args:
        database_urls: by service, such as `retrieval`.
        simulator: the simulator that stands for every provider; None leaves the real ones.
    """

    data: DataDirectory
    addresses: Mapping[str, str]
    database_urls: Mapping[str, str]
    simulator: Simulator | None = None

    def of(self, component: Component) -> dict[str, str]:
        """The whole environment of one component's process."""
        service = component.service.upper()
        given = inherited()
        if component.calls_providers:
            given |= provider_keys()
            if self.simulator is not None:
                # A real key never goes to the simulator.
                given |= self.simulator.access()
        if component.name != "retrieval":
            given = {name: value for name, value in given.items() if not OPENSEARCH.match(name)}
        environment = self._defaults(component) | given | dict(component.environment)
        environment[f"CITEMESH_{service}_LISTEN"] = self.addresses[component.name]
        environment["CITEMESH_IDENTITY_KEYS"] = str(self.data.identity / "keyring.json")
        if component.signs:
            key = self.data.identity / f"{component.service}.key"
            environment[f"CITEMESH_{service}_SIGNING_KEY"] = str(key)
        if component.nice:
            environment[f"CITEMESH_{service}_NICE"] = str(component.nice)
        if component.uses_database:
            url = self.database_urls[component.service]
            environment[f"CITEMESH_{service}_DATABASE_URL"] = url
        environment |= self._addresses_for((*component.calls, *component.observes))
        return environment

    def _addresses_for(self, names: Iterable[str]) -> dict[str, str]:
        """Where others are dialled; what the user names wins, such as a proxy in between."""
        variables = {f"CITEMESH_{name.upper()}_ADDRESS": self.addresses[name] for name in names}
        return {variable: os.environ.get(variable) or own for variable, own in variables.items()}

    def _defaults(self, component: Component) -> dict[str, str]:
        """Settings of an embedded mesh that the user's environment may override."""
        simulated = self.simulator.defaults() if self.simulator else {}
        return {
            **simulated,
            "CITEMESH_BLOB_URL": self.data.blobs.as_uri(),
            "CITEMESH_RETRIEVAL_LEXICAL_DIR": str(self.data.lexical),
            "CITEMESH_TRACE_FILE": str(self.data.traces / f"{component.name}.jsonl"),
            "CITEMESH_DRAIN_SECONDS": str(DRAIN_SECONDS),
            # There is no other gateway that a balancer could choose.
            "CITEMESH_GATEWAY_NOTICE_SECONDS": "0",
            # Handlers of gRPC that run in a child between fork and exec have crashed there.
            "GRPC_ENABLE_FORK_SUPPORT": "0",
            # Its older poller hands a call to Python in half as many steps (decision 0036).
            "GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener",
            "ORT_DISABLE_TELEMETRY": "1",
            "PYTHONUNBUFFERED": "1",
        }
