"""What the rerank service can be told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from meshkit.settings import ServiceSettings


class RerankSettings(ServiceSettings, service="rerank"):
    """Settings of the rerank service."""

    providers: Annotated[tuple[str, ...], NoDecode] = ("local",)
    """Who scores, separated by commas, the preferred one first, each `local`, a provider such as
    `cohere`, or `provider/model`; the next one is asked when one fails."""
    model: str = "ms-marco-MiniLM-L-12-v2"
    """Weights of the local cross-encoder."""
    workers: int = Field(2, ge=1, le=64)
    """Pairs scored at once, one thread each; more than its cores gains nothing."""
    window_tokens: int = Field(64, ge=16, le=380)
    """Tokens of a passage that are read unless a caller asks for whole passages; the cost of a
    pair grows with them."""
    margin_seconds: float = Field(0.03, ge=0)
    """Kept of the caller's deadline for the way home; scoring stops that long before it."""

    @field_validator("providers", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("providers")
    @classmethod
    def _named_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("names nobody" if not value else "names somebody twice")
        return value
