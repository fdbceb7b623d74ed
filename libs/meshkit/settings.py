"""Settings every process has: read once at start, validated, logged without secrets.

A service subclasses `ServiceSettings` and adds its own fields. Each field is an
environment variable: `CITEMESH_<SERVICE>_<FIELD>`, and for the fields that all
services share also `CITEMESH_<FIELD>`, which the service's own name overrides.
A `CITEMESH_<SERVICE>_...` variable that no field reads stops the start.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from meshkit.components import BY_NAME

ADDRESS_VARIABLES = {f"CITEMESH_{name.upper()}_ADDRESS" for name in BY_NAME}
"""Where each component is dialled; read by the channel factory in every process."""


OptionalPath = Annotated[Path | None, BeforeValidator(lambda given: given or None)]
"""A file that need not be named; an empty variable names none."""


class SettingsInvalid(ValueError):
    """The process cannot start; the text names the variables and what is wrong."""


class ServiceSettings(BaseSettings):
    """What every process of the mesh can be told."""

    model_config = SettingsConfigDict(
        extra="ignore", frozen=True, use_attribute_docstrings=True, validate_by_name=True
    )
    service: ClassVar[str] = ""

    listen: str = "127.0.0.1:0"
    """Address and port to listen on, `host:port`; port 0 takes a free one."""
    metrics_listen: str = ""
    """Address and port of a Prometheus endpoint, port 0 for a free one that the log names;
    empty serves none."""
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    """Least severe log line that is written."""
    log_format: str = Field("json", pattern="^(json|console)$")
    """`json`, one object a line, or `console`, for people."""
    max_concurrent_rpcs: int = Field(500, ge=1)
    """Calls served at once, at most; one more waits for a moment and is then refused with
    SERVICE_BUSY. Fewer are served while answers or searches come later than they should."""
    adaptive_limit: bool = True
    """Whether fewer calls are served at once while they come too late; `false` keeps to
    `max_concurrent_rpcs`."""
    max_watches: int = Field(0, ge=0)
    """Streams that only wait for changes (`Watch...`) served beside those calls; one more is
    refused with SERVICE_BUSY. 0 counts them as calls."""
    drain_seconds: float = Field(20.0, ge=0)
    """How long calls in flight may take to end after SIGTERM."""
    nice: int = Field(0, ge=0, le=19)
    """By how much the process lowers its priority once it serves; `citemesh up` sets it for the
    bulk lane, because questions come first."""
    max_connection_age_seconds: float = Field(300.0, gt=0)
    """Age at which a client's connection is renewed, so that new replicas are found."""
    database_url: SecretStr = SecretStr("")
    """Postgres as this service's runtime role: `postgresql://user:password@host/db`."""
    direct_database_url: SecretStr = SecretStr("")
    """Postgres past a transaction pooler, for LISTEN; empty means `database_url`."""
    database_pool_size: int = Field(8, ge=1)
    """Most connections to Postgres."""
    identity_keys: Path | None = None
    """Keyring file with the public keys of everyone who signs contexts."""
    signing_key: Path | None = None
    """This service's private key file, if it signs contexts for background work."""
    tls_cert_file: OptionalPath = None
    """This process's certificate, PEM with those between it and the authority: calls between
    services go over TLS, both sides with one. It names the host the service is dialled by."""
    tls_key_file: OptionalPath = None
    """Private key of that certificate, PEM."""
    tls_ca_file: OptionalPath = None
    """Certificates of the authorities that others' certificates are signed by, PEM."""
    health_listen: str = ""
    """Address and port that answers health checks and nothing else, without TLS: for probes that
    cannot speak it. Empty serves health on the port of the service alone."""
    trace_file: OptionalPath = None
    """File that spans are appended to as OTLP JSON lines, beside any OTLP end point; empty
    appends them to none."""
    trace_content: bool = False
    """Whether spans of calls to language models carry what was asked and answered. Whoever may
    read traces then reads documents."""
    access_log: str = Field("errors", pattern="^(all|errors|off)$")
    """Which calls have a line in the log when they end: all, those that did not end well, none."""

    def __init_subclass__(cls, service: str, **kwargs: Any) -> None:
        cls.service = service
        prefix = f"CITEMESH_{service.upper()}_"
        cls.model_config = {**cls.model_config, "env_prefix": prefix}
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        for name in ServiceSettings.model_fields:
            info: FieldInfo = cls.model_fields[name]
            info.validation_alias = AliasChoices(*variables(cls, name))
        cls.model_rebuild(force=True)


def variables(cls: type[ServiceSettings], field: str) -> list[str]:
    """Environment variables a field is read from, the one that wins first."""
    own = f"CITEMESH_{cls.service.upper()}_{field.upper()}"
    shared = f"CITEMESH_{field.upper()}"
    if field in ServiceSettings.model_fields:
        return [own, shared]
    alias = cls.model_fields[field].validation_alias
    if isinstance(alias, AliasChoices):
        return [str(choice) for choice in alias.choices]
    return [str(alias)] if alias else [own]


S = TypeVar("S", bound=ServiceSettings)


def load(cls: type[S], environment: Mapping[str, str] | None = None) -> S:
    """Settings from the environment.

    Raises:
        SettingsInvalid: naming every variable that is unknown or wrong.
    """
    environment = os.environ if environment is None else environment
    known = {name for field in cls.model_fields for name in variables(cls, field)}
    prefix = f"CITEMESH_{cls.service.upper()}_"
    bulk = {name for name in ADDRESS_VARIABLES if name.startswith(prefix)}
    unknown = sorted(
        name for name in environment if name.startswith(prefix) and name not in known | bulk
    )
    if unknown:
        raise SettingsInvalid(f"No setting of {cls.service} is named {', '.join(unknown)}.")
    try:
        return cls()
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            field = str(problem["loc"][0]) if problem["loc"] else ""
            name = variables(cls, field)[0] if field in cls.model_fields else field
            lines.append(f"{name}: {problem['msg']}")
        raise SettingsInvalid("; ".join(lines) + ".") from None


_USER_IN_URL = re.compile(r"(?<=://)\S*@")


def visible(settings: ServiceSettings) -> dict[str, str]:
    """The settings for a log line; secrets, also a password in a URL, show as stars."""
    return {
        name: _USER_IN_URL.sub("***@", str(value)) for name, value in settings.model_dump().items()
    }
