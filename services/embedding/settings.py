"""What the embedding service can be told."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from meshkit.settings import ServiceSettings
from services.embedding.spaces import parse_name

DEFAULT_SPACES = ("local/bge-small-en-v1.5@384",)


class Lane(StrEnum):
    """Which callers this process answers."""

    QUERY = "query"
    BULK = "bulk"


class EmbeddingSettings(ServiceSettings, service="embedding"):
    """Settings of the embedding service, both lanes."""

    spaces: Annotated[tuple[str, ...], NoDecode] = DEFAULT_SPACES
    """Spaces this mesh embeds in, separated by commas, each `provider/model@dimensions`. On an
    empty database the first becomes the active one; later only SwitchSpace changes that."""
    lane: Lane = Lane.QUERY
    """`query` answers questions and caches their vectors; `bulk` embeds documents."""
    workers: int = Field(2, ge=1, le=64)
    """Texts a process embeds at once, one thread each; more than its cores gains nothing."""
    query_cache_entries: int = Field(4096, ge=0)
    """Query vectors a query-lane process keeps in memory (about 2 kB each); 0 keeps none."""
    query_cache_seconds: float = Field(900.0, gt=0)
    """Age at which a query vector in memory is forgotten, also after a project's purge that
    another replica served."""
    stored_vector_days: int = Field(30, ge=1)
    """Age at which a query vector in Postgres is forgotten."""
    space_refresh_seconds: float = Field(5.0, gt=0)
    """How often a process looks whether another one has switched spaces."""

    @field_validator("spaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("spaces")
    @classmethod
    def _well_formed(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("at least one space is needed")
        if len(set(value)) != len(value):
            raise ValueError("a space is named twice")
        for name in value:
            parse_name(name)
        return value
