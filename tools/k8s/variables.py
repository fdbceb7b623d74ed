"""Which environment variables each component reads: from its settings, and from its libraries.

    python -m tools.k8s.variables             # 1 and the difference when the list is not current
    python -m tools.k8s.variables --write     # writes k8s/helm/citemesh/variables.yaml

Runs in the project's own environment, because settings classes and libraries are asked
themselves. The chart refuses what is not in the list, where a process would refuse to start,
and `tools.k8s.environment` compares the list with what is rendered.
"""

from __future__ import annotations

import sys
from typing import Any

import opentelemetry.environment_variables
import opentelemetry.sdk.environment_variables
import yaml
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES
from botocore.credentials import EnvProvider
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from meshkit.components import COMPONENTS, Component
from meshkit.providers.settings import ProviderSettings
from meshkit.settings import ServiceSettings, variables
from meshkit.weights.store import DIRECTORY_VARIABLE
from tools.configuration import rooms
from tools.k8s.calls import code_of
from tools.k8s.facts import CHART
from tools.page import keep

LIST = CHART / "variables.yaml"
HEAD = "# Made by `make docs` from the settings classes: what each component reads.\n"


def read_by(component: Component) -> dict[str, Any]:
    """What a component reads.

    Returns:
        `settings`, every name of every setting that is no secret; `secret`, those that are,
        by the name that wins; `libraries`, what the component's own libraries read.
    """
    settings: list[str] = []
    secret: dict[str, list[str]] = {}
    classes: list[type[BaseSettings]] = [rooms()[component.service]]
    if component.calls_providers:
        classes.append(ProviderSettings)
    for cls in classes:
        for name, field in cls.model_fields.items():
            names = _names(cls, name, field)
            if field.annotation is SecretStr:
                secret[names[0]] = names
            else:
                settings += names
    settings += [
        f"CITEMESH_{other.upper()}_ADDRESS" for other in (*component.calls, *component.observes)
    ]
    libraries = _aws() if component.name == "ingestion" else []
    if code_of(component.module).weights:
        libraries.append(DIRECTORY_VARIABLE)
    return {
        "settings": sorted(set(settings)),
        "secret": secret,
        "libraries": sorted(set(libraries) - set(settings)),
    }


def _names(cls: type[BaseSettings], name: str, field: FieldInfo) -> list[str]:
    if issubclass(cls, ServiceSettings):
        return variables(cls, name)
    alias = field.validation_alias
    return [str(each) for each in getattr(alias, "choices", [alias])]


def _telemetry() -> list[str]:
    """The standard names, from the SDK that reads them."""
    modules = (opentelemetry.environment_variables, opentelemetry.sdk.environment_variables)
    return [name for module in modules for name in vars(module) if name.startswith("OTEL_")]


def _aws() -> list[str]:
    """What the S3 client reads."""
    found = [*EnvProvider.TOKENS, EnvProvider.ACCESS_KEY, EnvProvider.SECRET_KEY]
    for _, names, _, _ in BOTOCORE_DEFAUT_SESSION_VARIABLES.values():
        found += [names] if isinstance(names, str) else names or []
    # Of a role that the cluster gives the pod, read by its own provider.
    return [*found, "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"]


def listed() -> dict[str, Any]:
    """What every component reads; `everywhere` is what telemetry reads in each of them."""
    return {
        "everywhere": sorted(set(_telemetry())),
        "components": {component.name: read_by(component) for component in COMPONENTS},
    }


if __name__ == "__main__":
    text = HEAD + yaml.safe_dump(listed(), sort_keys=False, width=100)
    sys.exit(keep(LIST, text, [], write="--write" in sys.argv[1:]))
