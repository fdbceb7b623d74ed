"""Bodies of requests: what may be asked, in which limits. Unknown fields are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=128)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Label = Annotated[str, StringConstraints(max_length=256)]
Principal = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Question = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=8192)]
Scope = Literal["read", "write", "admin"]
MicroUsd = Annotated[int, Field(ge=0, le=10**15)]


class Body(BaseModel):
    """What all bodies have in common."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True
    )


class Filter(Body):
    """Restricts a search; all given conditions must hold."""

    labels: Annotated[dict[str, Label], Field(max_length=16)] = {}
    """Labels the document must carry, all of them."""
    document_ids: Annotated[list[Id], Field(max_length=1000)] = []
    """Documents to search in; empty means all."""
    activated_after: Annotated[AwareDatetime | None, Field(strict=False)] = None
    """Only documents that became searchable at or after this time, RFC 3339 with a zone."""
    activated_before: Annotated[AwareDatetime | None, Field(strict=False)] = None
    """Only documents that became searchable before this time."""


class SearchBody(Body):
    """A search for passages."""

    query: Question
    """What to look for, at most 8,192 characters."""
    top_k: Annotated[int, Field(ge=1, le=100)] = 10
    """Hits to return."""
    mode: Literal["hybrid", "dense", "lexical"] = "hybrid"
    """Which indexes are asked."""
    fusion: Literal["rrf", "min_max"] | None = None
    """How their rankings become one; left out, the project's choice."""
    rerank: bool = True
    """Whether a cross-encoder orders the best hits."""
    filter: Filter = Filter()
    """Where to look."""
    neighbours: Annotated[int, Field(ge=0, le=5)] = 0
    """Chunks to add before and after each hit, in reading order."""
    context_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Tokens that all hits may have together with their neighbours; 0 sets no limit."""
    bypass_cache: bool = False
    """Do not use the cache of query vectors. For measurements."""


class AnswerBody(Body):
    """A question to be answered."""

    question: Question
    """The question, at most 8,192 characters."""
    conversation_id: Annotated[str, StringConstraints(max_length=64)] = ""
    """Conversation it belongs to; a new id starts one."""
    filter: Filter = Filter()
    """Where to look for the answer."""
    stream: bool = False
    """Send server-sent events instead of one JSON object."""
    max_tokens: Annotated[int, Field(ge=1, le=8192)] = 1024
    """Most tokens of the answer."""
    bypass_cache: bool = False
    """Neither read nor write the answer caches. For measurements."""


class FeedbackBody(Body):
    """What a user thought of an answer."""

    answer_id: Id
    """Answer it is about."""
    rating: Literal[-1, 0, 1]
    """-1 bad, 0 neutral, 1 good."""
    comment: Annotated[str, StringConstraints(max_length=4096)] = ""
    """What the user wrote."""


class ResetBody(Body):
    """Whose breakers are to be closed."""

    provider: Annotated[str, StringConstraints(max_length=64)] = ""
    """Such as `gemini`; empty means everybody's."""


class ProjectSettingsBody(Body):
    """What a project decides for itself; what is left out is the service's default."""

    chunk_tokens: Annotated[int, Field(ge=8, le=500)] | None = None
    """Tokens of a chunk at most, of files uploaded or reprocessed from now on. Where the embedding
    model reads less, chunks are smaller and the document says so."""
    chunk_overlap_tokens: Annotated[int, Field(ge=0, le=250)] | None = None
    """Tokens that a chunk repeats of the one before, at most half of `chunk_tokens`."""
    fusion: Literal["rrf", "min_max"] | None = None
    """How two rankings become one when a search does not say."""
    dense_weight: Annotated[float, Field(ge=0, le=100, strict=False)] | None = None
    """Weight of the ranking by vectors; 0 leaves it out."""
    lexical_weight: Annotated[float, Field(ge=0, le=100, strict=False)] | None = None
    """Weight of the ranking by words; 0 leaves it out."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.chunk_overlap_tokens is not None:
            if self.chunk_tokens is None:
                raise ValueError("chunk_overlap_tokens needs chunk_tokens beside it")
            if self.chunk_overlap_tokens > self.chunk_tokens // 2:
                raise ValueError("chunk_overlap_tokens must be at most half of chunk_tokens")
        if self.dense_weight == self.lexical_weight == 0:
            raise ValueError("dense_weight and lexical_weight cannot both be 0: nothing is found")
        return self

    def chosen(self) -> dict[str, Any]:
        """What is not left to the service."""
        return self.model_dump(exclude_none=True)


class ProjectBody(Body):
    """A project to be made."""

    name: Name
    """Name, unique among the living projects."""
    budget_micro_usd: MicroUsd | None = None
    """Spending limit of a calendar month in millionths of a US dollar; none when null."""
    settings: ProjectSettingsBody = ProjectSettingsBody()
    """What the project decides for itself."""


class ProjectChange(Body):
    """What is to change of a project; what is left out stays."""

    name: Name | None = None
    """New name."""
    budget_micro_usd: MicroUsd | None = None
    """New monthly limit; null lifts it."""
    settings: ProjectSettingsBody | None = None
    """New settings, in place of all the old ones."""


class KeyBody(Body):
    """An API key to be made."""

    name: Name
    """What people call the key."""
    project_id: Annotated[str, StringConstraints(max_length=64)] = ""
    """Project the key is for; empty means the caller's own."""
    scopes: Annotated[list[Scope], Field(min_length=1)] = ["read"]
    """What it may do: `read`, `write`, `admin` (of the whole installation)."""
    principals: Annotated[list[Principal], Field(max_length=256)] = []
    """What its holder is, for access lists: `user:ann`, `group:hr`."""
    expires_at: Annotated[AwareDatetime | None, Field(strict=False)] = None
    """End of its life, RFC 3339 with a zone; never when null."""
