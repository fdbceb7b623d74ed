"""Keys and addresses of providers, read by every process that calls one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from meshkit.providers import catalogue
from meshkit.providers.catalogue import Catalogue
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
        return Providers(settings, catalogue.load(settings.provider_catalogue))
    except ValidationError as error:
        names = ", ".join(str(problem["loc"][0]) for problem in error.errors())
        raise SettingsInvalid(f"{names}: not a value that can be used.") from None
    except ValueError as error:
        raise SettingsInvalid(str(error)) from None
