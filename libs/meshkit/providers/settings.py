"""Keys and addresses of providers, read by every process that calls one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from meshkit.providers import catalogue
from meshkit.providers.breakers import Breakers
from meshkit.providers.catalogue import Catalogue, Model
from meshkit.providers.errors import Target
from meshkit.providers.gate import Gate
from meshkit.providers.throttle import Throttle
from meshkit.resilience.breaker import Policy
from meshkit.resilience.rate import Lane
from meshkit.settings import SettingsInvalid


class ProviderSettings(BaseSettings):
    """Read beside a service's own settings; the SDKs' names where they have one."""

    model_config = SettingsConfigDict(
        extra="ignore", frozen=True, use_attribute_docstrings=True, validate_by_name=True
    )

    gemini_api_key: SecretStr = Field(SecretStr(""), validation_alias="GEMINI_API_KEY")
    """Key of the Gemini API."""
    cohere_api_key: SecretStr = Field(
        SecretStr(""), validation_alias=AliasChoices("COHERE_API_KEY", "CO_API_KEY")
    )
    """Key of the Cohere API."""
    anthropic_api_key: SecretStr = Field(SecretStr(""), validation_alias="ANTHROPIC_API_KEY")
    """Key of the Anthropic API."""
    gemini_base_url: str = Field("", validation_alias="CITEMESH_GEMINI_BASE_URL")
    """Where the Gemini API is, such as a proxy or the simulator; empty means Google's own."""
    cohere_base_url: str = Field("", validation_alias="CITEMESH_COHERE_BASE_URL")
    """Where the Cohere API is; empty means Cohere's own."""
    anthropic_base_url: str = Field("", validation_alias="CITEMESH_ANTHROPIC_BASE_URL")
    """Where the Anthropic API is; empty means Anthropic's own."""
    provider_catalogue: Path | None = Field(None, validation_alias=catalogue.VARIABLE)
    """File with models, prices and limits that add to or replace those of
    `libs/meshkit/providers/catalogue.toml`."""
    provider_share: float = Field(1.0, gt=0, le=1, validation_alias="CITEMESH_PROVIDER_SHARE")
    """Part of the providers' quotas that one process of a service may use: 0.25 with four
    replicas. The two lanes of embedding divide theirs once more, 3 to 7."""
    breaker_account_ladder: str = Field(
        "300,900,3600,10800,36000", validation_alias="CITEMESH_BREAKER_ACCOUNT_LADDER"
    )
    """Seconds a model rests after quota, key and account errors, longer each time in a row."""
    breaker_transient_ladder: str = Field(
        "5,15,60,300,900,3600", validation_alias="CITEMESH_BREAKER_TRANSIENT_LADDER"
    )
    """Seconds a model rests after overload, time-outs and network errors."""

    breaker_ramp_seconds: float = Field(
        10.0, gt=0, validation_alias="CITEMESH_BREAKER_RAMP_SECONDS"
    )
    """How long after a rest only a growing share of the calls goes to the model."""

    @field_validator("breaker_account_ladder", "breaker_transient_ladder")
    @classmethod
    def _ladder(cls, value: str) -> str:
        ladder(value)
        return value

    def policy(self) -> Policy:
        """When breakers open and for how long."""
        return Policy(
            account_ladder=ladder(self.breaker_account_ladder),
            transient_ladder=ladder(self.breaker_transient_ladder),
            ramp_seconds=self.breaker_ramp_seconds,
        )


def ladder(words: str) -> tuple[float, ...]:
    """Cooldowns in seconds, from a setting.

    Raises:
        ValueError: not one or more times above 0.
    """
    steps = tuple(float(word) for word in words.split(","))
    if min(steps) <= 0:
        raise ValueError("needs seconds above 0, divided by commas")
    return steps


CONNECTIONS = 1000
"""Most connections to a provider: twice the calls that a process serves at once by default. A
stream has its own for as long as a model writes, and the HTTP libraries' 100 would make the
next one wait for the end of another."""

KEY_VARIABLES: Mapping[str, str] = {
    "gemini": "GEMINI_API_KEY",
    "cohere": "COHERE_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
}


@dataclass(frozen=True, slots=True)
class Access:
    """How one provider is reached."""

    provider: str
    key: str = field(repr=False)
    base_url: str
    """Empty means the provider's own."""


@dataclass(frozen=True, slots=True)
class Providers:
    """What a process knows about providers."""

    settings: ProviderSettings
    catalogue: Catalogue
    breakers: Breakers
    """Of this process."""

    def gate(self, model: Model, lane: Lane = Lane.QUESTION, share: float = 1.0) -> Gate:
        """The way to a model.

        Args:
            model: As the catalogue has it.
            lane: What this process's calls are for.
            share: Part of this process's quota that its lane has.
        """
        throttle = Throttle(model, self.settings.provider_share * share)
        target = Target(model.provider, model.model, model.operation)
        return Gate(target, self.breakers, throttle, lane)

    def access(self, provider: str) -> Access:
        """Key and address of a provider.

        Raises:
            SettingsInvalid: naming the variable of the key that is missing.
        """
        key: SecretStr = getattr(self.settings, f"{provider}_api_key")
        if not key.get_secret_value().strip():
            raise SettingsInvalid(
                f"{provider} is to be used, but {KEY_VARIABLES[provider]} is not set."
            )
        url: str = getattr(self.settings, f"{provider}_base_url")
        return Access(provider, key.get_secret_value().strip(), url.rstrip("/"))


def load() -> Providers:
    """Reads settings and catalogue.

    Raises:
        SettingsInvalid: naming what is wrong.
    """
    try:
        settings = ProviderSettings()
        listed = catalogue.load(settings.provider_catalogue)
        return Providers(settings, listed, Breakers(settings.policy()))
    except ValidationError as error:
        names = ", ".join(str(problem["loc"][0]) for problem in error.errors())
        raise SettingsInvalid(f"{names}: not a value that can be used.") from None
    except ValueError as error:
        raise SettingsInvalid(str(error)) from None
