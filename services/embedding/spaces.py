"""Embedding spaces, and the rules by which a process may use the registered ones.

A space is everything that makes two vectors comparable. The rules here have no
I/O; `registry.py` applies them to Postgres.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from meshkit.errors import Precondition

NAME = re.compile(r"([a-z0-9-]{1,64})/([A-Za-z0-9._-]{1,128})@([1-9][0-9]{0,3})")


class SpaceState(StrEnum):
    """Where a space stands in its life."""

    BUILDING = "building"
    ACTIVE = "active"
    STANDBY = "standby"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class SpaceName:
    """The parts of `provider/model@dimensions`."""

    provider: str
    model: str
    dimensions: int

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}@{self.dimensions}"


@dataclass(frozen=True, slots=True)
class Identity:
    """What identifies a space; two that differ in anything are never compared."""

    name: str
    """As written in CITEMESH_EMBEDDING_SPACES."""
    provider: str
    """Who embeds: `local`."""
    model: str
    """The model in the provider's own spelling."""
    dimensions: int
    """Length of every vector."""
    normalized: bool
    """Whether vectors have Euclidean length 1."""
    version: str
    """Fingerprint of weights, pooling and prefixes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may carry."""

    max_texts_per_call: int
    max_tokens_per_text: int
    tokens_per_minute: int = 0
    """0 means no such limit."""


@dataclass(frozen=True, slots=True)
class Space:
    """A registered space."""

    identity: Identity
    state: SpaceState
    created_at: datetime


def parse_name(text: str) -> SpaceName:
    """The parts of a space's name.

    Raises:
        ValueError: the text is no `provider/model@dimensions`.
    """
    found = NAME.fullmatch(text)
    if found is None or int(found[3]) > 4000:
        raise ValueError(
            f"{text!r} is no space; write provider/model@dimensions with at most 4000 "
            "dimensions, for example local/bge-small-en-v1.5@384"
        )
    return SpaceName(found[1], found[2], int(found[3]))


def check_same(registered: Identity, configured: Identity) -> None:
    """Refuses a process whose model is not the one a space was filled by.

    Raises:
        Precondition: SPACE_MISMATCH, naming both sides of every difference.
    """
    fields = ("provider", "model", "dimensions", "normalized", "version")
    differing = [
        f"{field} {getattr(registered, field)} there, {getattr(configured, field)} here"
        for field in fields
        if getattr(registered, field) != getattr(configured, field)
    ]
    if differing:
        raise Precondition(
            "SPACE_MISMATCH",
            f"Space {registered.name} is registered with other properties than this process "
            f"has: {'; '.join(differing)}. Vectors of the two cannot be compared; bring back "
            "the former model, or configure the new one as a space of its own name.",
        )


def check_registered(registered: Sequence[Space], configured: Mapping[str, Identity]) -> None:
    """Refuses to start beside spaces that this process would mix up or could not serve.

    Raises:
        Precondition: SPACE_MISMATCH, naming both sides; or SPACE_NOT_CONFIGURED when the
            active space is missing here.
    """
    for space in registered:
        here = configured.get(space.identity.name)
        if here is not None:
            check_same(space.identity, here)
        elif space.state is SpaceState.ACTIVE:
            raise Precondition(
                "SPACE_NOT_CONFIGURED",
                f"The active space is {space.identity.name}, but CITEMESH_EMBEDDING_SPACES names "
                f"{', '.join(configured)}. Name the active one too; when the new one is filled, "
                "`citemesh reindex --space NAME --switch` makes it the active one.",
            )


def check_fit_to_serve(space: Space) -> None:
    """Refuses to make a space the active one that is not filled, or is it already.

    Raises:
        Precondition: SPACE_INCOMPLETE, SPACE_RETIRED or SPACE_ALREADY_ACTIVE.
    """
    name = space.identity.name
    match space.state:
        case SpaceState.BUILDING:
            raise Precondition(
                "SPACE_INCOMPLETE",
                f"Space {name} is not filled yet; `citemesh reindex --space {name}` fills it.",
            )
        case SpaceState.RETIRED:
            raise Precondition("SPACE_RETIRED", f"Space {name} is retired and is not filled.")
        case SpaceState.ACTIVE:
            raise Precondition("SPACE_ALREADY_ACTIVE", f"Space {name} is the active one already.")
        case SpaceState.STANDBY:
            return


def first_states(configured: Sequence[str], *, any_active: bool) -> dict[str, SpaceState]:
    """The state in which each configured space is registered if it is new.

    The first of an installation is active. Every other is still empty, and an empty
    space must not stand by to answer questions.
    """
    states = dict.fromkeys(configured, SpaceState.BUILDING)
    if not any_active and configured:
        states[configured[0]] = SpaceState.ACTIVE
    return states
