"""Keeps docs/configuration.md: every setting of every process, from the settings classes.

    python -m tools.configuration           # 1 and the difference when it is not current
    python -m tools.configuration --write   # writes it

Settings that all processes share come first; each room's own follow. Variables
that are read somewhere else than in a settings class stand in `OTHERS`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from meshkit.components import BY_NAME, COMPONENTS
from meshkit.providers.settings import ProviderSettings
from meshkit.settings import ServiceSettings, variables
from tools.page import Table, keep

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"

INTRODUCTION = """\
# Configuration

Every process reads its settings from environment variables, once, when it starts. A value
that is wrong, and a `CITEMESH_<SERVICE>_...` variable that no setting is named after, stop
the start with a sentence that names the variable. `citemesh up` passes its own environment
on to every process and fills in what the embedded mesh needs: addresses, database, keys.

This page is made from the settings classes by `make docs`; `make check` fails when it is
not current.
"""

SHARED = """\
Each of these is read by every process, under `CITEMESH_<NAME>` for all of them or
`CITEMESH_<SERVICE>_<NAME>` for one; the service's own wins. `<SERVICE>` is one of
{services}. Where a service has another default, its own table says so.
"""

PROVIDERS = """\
Read by embedding, rerank and generation, which call them, and by `citemesh providers check`;
`citemesh up` gives the keys to those processes and to no other. What the providers' errors
mean: [providers.md](providers.md).
"""

OTHERS = """\
| variable | read by | what |
|---|---|---|
| `CITEMESH_<COMPONENT>_ADDRESS` | every process that calls it | Where a component is dialled, such as `dns:///retrieval:50051`. Components: {components}. |
| `CITEMESH_WEIGHTS_DIR` | embedding, rerank, ingestion | Folder of the local models' weights; by default `citemesh/weights` in the user's cache folder. |
| `CITEMESH_API_KEY` | the command line, clients | Key that `citemesh ask` and the others send. |
| `OTEL_EXPORTER_OTLP_ENDPOINT` and the other standard names | every process | Where traces and metrics go, how many traces are sampled (`OTEL_TRACES_SAMPLER_ARG`), resource attributes: [operations/telemetry.md](operations/telemetry.md). |
"""  # noqa: E501 - a table has one line a row


def rooms() -> dict[str, type[ServiceSettings]]:
    """The settings class of each service, by the service's name, in starting order."""
    found: dict[str, type[ServiceSettings]] = {}
    for component in COMPONENTS:
        if component.service not in found:
            module = importlib.import_module(f"{component.module}.settings")
            found[component.service] = next(
                value
                for value in vars(module).values()
                if isinstance(value, type)
                and issubclass(value, ServiceSettings)
                and value.service == component.service
            )
    return found


def default(field: FieldInfo) -> str:
    """A default as one would write it into an environment file."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, tuple):
        value = ",".join(str(part) for part in value)
    if isinstance(value, bool):
        value = str(value).lower()
    # A default below the folder one works in is the same everywhere but for that folder.
    shown = "" if value is None else str(value).replace(str(Path.cwd()), "/...")
    return f"`{shown}`" if shown else ""


def described(field: FieldInfo) -> str:
    """What a field is for, on one line."""
    return " ".join((field.description or "").split())


def shared_rows() -> Iterator[tuple[str, ...]]:
    """Settings of every process."""
    for name, field in ServiceSettings.model_fields.items():
        yield f"`CITEMESH_{name.upper()}`", default(field), described(field)


def own_rows(settings: type[ServiceSettings]) -> Iterator[tuple[str, ...]]:
    """Settings of one process, and shared ones to which it gives another default."""
    for name, field in settings.model_fields.items():
        base = ServiceSettings.model_fields.get(name)
        if base is None or default(base) != default(field):
            names = variables(settings, name)
            shown = "<br>".join(f"`{variable}`" for variable in names)
            yield shown, default(field), described(field)


def provider_rows() -> Iterator[tuple[str, ...]]:
    """Keys and addresses of providers."""
    for field in ProviderSettings.model_fields.values():
        alias = field.validation_alias
        names = alias.choices if isinstance(alias, AliasChoices) else [alias]
        shown = "<br>".join(f"`{name}`" for name in names)
        yield shown, default(field), described(field)


def page() -> str:
    """The whole page."""
    settings = rooms()
    columns = ("variable", "default", "what")
    services = ", ".join(name.upper() for name in settings)
    parts = [INTRODUCTION, "## Every process\n", SHARED.format(services=services)]
    parts.append(Table(columns, shared_rows()).text())
    for name, cls in settings.items():
        parts.append(f"## {name}\n")
        rows = list(own_rows(cls))
        parts.append(Table(columns, rows).text() if rows else "Nothing of its own.\n")
    parts += ["## Providers\n", PROVIDERS, Table(columns, provider_rows()).text()]
    parts.append("## Read elsewhere\n")
    parts.append(OTHERS.format(components=", ".join(f"`{name.upper()}`" for name in BY_NAME)))
    return "\n".join(parts)


def missing_descriptions() -> list[str]:
    """Settings that do not say what they are for."""
    return sorted(
        f"{cls.__name__}.{name} has no description"
        for cls in rooms().values()
        for name, field in cls.model_fields.items()
        if not described(field)
    )


if __name__ == "__main__":
    sys.exit(keep(PAGE, page(), missing_descriptions(), write="--write" in sys.argv[1:]))
