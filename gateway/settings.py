"""What the gateway can be told; every field is a `CITEMESH_GATEWAY_...` variable."""

from __future__ import annotations

from pathlib import Path

from limits import parse_many
from pydantic import AliasChoices, Field, field_validator, model_validator

from meshkit.settings import ServiceSettings


class GatewaySettings(ServiceSettings, service="gateway"):
    """Settings of the gateway."""

    listen: str = "127.0.0.1:8080"
    """Address and port of the REST interface, `host:port`; port 0 takes a free one."""
    access_log: str = Field("all", pattern="^(all|errors|off)$")
    """Which requests have a line in the log when they end: all but successful probes and
    scrapes, those that did not end well, none."""
    allowed_origins: str = Field(
        "",
        validation_alias=AliasChoices(
            "CITEMESH_GATEWAY_ALLOWED_ORIGINS", "CITEMESH_ALLOWED_ORIGINS"
        ),
    )
    """Origins whose pages may call the interface, separated by commas; none by default."""
    trusted_proxies: str = ""
    """Addresses of reverse proxies whose `X-Forwarded-For` is believed, separated by
    commas; none by default, because a caller could otherwise choose its own address."""
    https_only: bool = False
    """Send `Strict-Transport-Security`; set it when a proxy in front ends TLS."""

    max_upload_bytes: int = Field(256 * 1024 * 1024, ge=1)
    """Largest file that is taken; a larger one is refused with FILE_TOO_LARGE."""
    max_body_bytes: int = Field(1024 * 1024, ge=1024)
    """Largest JSON body that is read."""
    spool_memory_bytes: int = Field(1024 * 1024, ge=0)
    """Bytes of an upload held in memory while fields may still follow its file; what is
    beyond goes to a temporary file. A form that names its fields first is never held."""
    spool_directory: Path | None = None
    """Directory for those temporary files; the system's when unset."""

    request_seconds: float = Field(10.0, gt=0)
    """Time for a request that no other setting names."""
    search_seconds: float = Field(5.0, gt=0)
    """Time for a search."""
    answer_seconds: float = Field(120.0, gt=0)
    """Time for an answer, stream included."""
    upload_seconds: float = Field(900.0, gt=0)
    """Time for an upload, from its first byte to the committed row."""
    watch_seconds: float = Field(3600.0, gt=0)
    """Longest life of a stream of document events."""
    export_seconds: float = Field(3600.0, gt=0)
    """Time for an export or a purge of a project."""
    keep_alive_seconds: float = Field(15.0, gt=0)
    """Silence on an event stream after which a comment is sent, so that proxies keep it open."""
    notice_seconds: float = Field(2.0, ge=0)
    """How long after SIGTERM requests are still taken, while /readyz says `draining` and each
    answer ends its connection: longer than a balancer takes to notice. Calls in flight have
    `drain_seconds` after that."""

    key_limit: str = "20000/minute"
    """Requests of one key, such as `100/second; 20000/hour`."""
    address_limit: str = "30000/minute"
    """Requests from one address (one /64 network with IPv6), whatever their keys."""
    anonymous_limit: str = "300/minute"
    """Requests from one address to pages that need no key: console and documentation."""
    failure_limit: str = "30/minute"
    """Refused credentials from one address; then all of its requests wait."""
    limits_storage: str = "memory://"
    """Where counters live: `memory://`, right for one gateway only, or a Redis URL; while Redis
    is away, each gateway counts by itself."""

    key_cache_seconds: float = Field(10.0, ge=0, le=30)
    """How long a looked-up key is remembered: a key revoked at another gateway works
    for at most so long. A revocation at this one counts at once."""

    jwt_jwks: str = ""
    """File or https URL of the issuer's JSON Web Key Set; empty turns JWTs off."""
    jwt_issuer: str = ""
    """Required value of `iss`."""
    jwt_audience: str = ""
    """Required value of `aud`."""
    jwt_algorithms: str = "RS256,ES256,EdDSA"
    """Signature algorithms that are accepted, separated by commas; none that is symmetric."""
    jwt_project_claim: str = "project"
    """Claim that holds the project's id."""
    jwt_principals_claim: str = "groups"
    """Claim that holds the caller's groups, a list; `user:<sub>` is always added, and a
    group without a prefix becomes `group:<name>`."""
    jwt_scopes_claim: str = "scope"
    """Claim that holds the scopes, a list or words separated by blanks; `read`, `write`
    and `admin` count, others are ignored."""

    sweep_seconds: float = Field(30.0, gt=0)
    """Interval at which reservations of dead callers are released."""

    @field_validator("key_limit", "address_limit", "anonymous_limit", "failure_limit")
    @classmethod
    def _is_a_limit(cls, value: str) -> str:
        parse_many(value)
        return value

    @model_validator(mode="after")
    def _jwt_is_complete(self) -> GatewaySettings:
        if self.jwt_jwks and not (self.jwt_issuer and self.jwt_audience):
            raise ValueError(
                "CITEMESH_GATEWAY_JWT_JWKS needs CITEMESH_GATEWAY_JWT_ISSUER and"
                " CITEMESH_GATEWAY_JWT_AUDIENCE beside it"
            )
        symmetric = [name for name in words(self.jwt_algorithms) if name[:2] in ("HS", "no")]
        if symmetric:
            raise ValueError(
                f"CITEMESH_GATEWAY_JWT_ALGORITHMS must not contain {', '.join(symmetric)}"
            )
        return self


def words(value: str) -> tuple[str, ...]:
    """The parts of a setting that is a list separated by commas."""
    return tuple(part.strip() for part in value.split(",") if part.strip())
