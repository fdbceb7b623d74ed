"""Finding by words. One protocol, one module per back end, one contract suite over all.

The lexical index is a projection: Postgres says what is live and who may see it.
The index filters by project, principals and labels too, early enough that
somebody who may see little still gets as many hits as asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class VersionKey:
    """A version of a document; what the index replaces and deletes as a whole."""

    project_id: str
    document_id: str
    version: int


@dataclass(frozen=True, slots=True)
class LexicalChunk:
    """A chunk as the lexical index needs it."""

    key: int
    """`chunk.id` in Postgres."""
    text: str
    headings: Sequence[str]
    language: str


@dataclass(frozen=True, slots=True)
class LexicalVersion:
    """A whole version to index."""

    key: VersionKey
    title: str
    labels: Mapping[str, str]
    allow: Sequence[str]
    """Empty means everyone in the project."""
    chunks: Sequence[LexicalChunk]


@dataclass(frozen=True, slots=True)
class LexicalQuery:
    """A search by words."""

    text: str
    """As the user wrote it; never parsed as a query language."""
    project_id: str
    principals: Sequence[str]
    limit: int
    labels: Mapping[str, str]
    document_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class LexicalHits:
    """Keys and BM25 scores, best first."""

    keys: list[int]
    scores: list[float]


@dataclass(frozen=True, slots=True)
class Changes:
    """One batch of work; applying the same changes again leaves the index as it is."""

    replace: Sequence[LexicalVersion] = ()
    delete: Sequence[VersionKey] = ()
    purge: Sequence[str] = ()
    """Projects of which nothing may stay; takes effect before the other two."""
    revision: int = 0
    """Grows with each batch, and was taken before the batch was read from Postgres: an
    index that several processes write to lets nothing older replace what is newer."""


class LexicalIndex(Protocol):
    """An index over the words of chunks."""

    async def apply(self, changes: Changes) -> None:
        """Makes changes durable and visible to searches.

        Raises:
            Unavailable: when the index cannot take them now. A part may have been
                applied; the same changes again complete it.
            Internal: when the index will never take them.
        """
        ...

    async def search(self, query: LexicalQuery) -> LexicalHits:
        """The best chunks by BM25 that the principals may see.

        A word that nothing visible contains stands for the words nearest to it.

        Raises:
            Unavailable: when the index does not answer.
        """
        ...

    async def projects(self) -> set[str]:
        """Projects that the index holds anything of.

        Raises:
            Unavailable: when the index does not answer.
        """
        ...

    async def inventory(self, project_id: str) -> dict[VersionKey, int]:
        """How many chunks of each version of a project the index holds.

        Raises:
            Unavailable: when the index does not answer.
        """
        ...

    async def close(self) -> None:
        """Ends writing; the index can be opened again."""
        ...


@dataclass(frozen=True, slots=True)
class Draft:
    """A new index that nobody searches yet."""

    name: str
    index: LexicalIndex


class LexicalHome(Protocol):
    """Where the index of a database lives, and which one is current."""

    async def exists(self) -> bool:
        """Whether there is a current index."""
        ...

    async def fresh(self) -> Draft:
        """A new, empty index beside the current one."""
        ...

    async def publish(self, draft: Draft) -> LexicalIndex:
        """Makes a draft the current index, in one step; returns what to search from now on."""
        ...

    async def sweep(self, building: str = "") -> None:
        """Deletes every index but the current one and the one named."""
        ...

    async def tidy(self) -> None:
        """Removes what the current index need not remember any more."""
        ...

    async def close(self) -> None:
        """Ends what all indexes share."""
        ...
