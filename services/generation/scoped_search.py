"""Finding passages for a question, document by document where it names its documents.

An ordinary question is one search. One that names a period, a series of reports or several owners
(`scope.py`) is a wide search that tells which documents there are, and then one search in each:
without the cross-encoder, because the sentences are scored afterwards, and side by side.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from meshkit.errors import MeshError
from meshkit.logging import logger
from services.generation.answers import Found, SearchFilter
from services.generation.calls.finding import FindingCalls, QueryVector
from services.generation.passages import Chunk, Facet, Passage
from services.generation.scope import Scope, may_be_scoped, scope

log = logger(__name__)

WIDE = 60
"""Passages of the search that tells which documents there are."""
GROUPS = 8
"""Documents, or groups of them, that are searched one by one; the newest of more."""
_FEWEST = 3
"""Passages of a group, however many there are."""
_SHARED = 3
"""Times as many passages as an ordinary answer has, all groups together."""


async def find(
    calls: FindingCalls,
    text: str,
    vector: QueryVector | None,
    wanted: SearchFilter,
    *,
    passages: int,
    bypass_cache: bool,
    seconds: float,
    neighbours: bool = False,
) -> Found:
    """Passages for a question, numbered from 1; by words only without a vector.

    Args:
        calls: The neighbours.
        text: What to search for.
        vector: Its vector.
        wanted: Restricts the search.
        passages: Of an ordinary question.
        bypass_cache: Do not use the cache of query vectors.
        seconds: Time of each of the at most three steps.
        neighbours: Whether the chunks beside each hit are wanted, too.

    Raises:
        Unavailable: SEARCH_UNAVAILABLE.
    """
    if may_be_scoped(text):
        wide = await calls.search(
            text, vector, wanted, top_k=WIDE, rerank=False, bypass_cache=bypass_cache,
            seconds=seconds,
        )  # fmt: skip
        named = scope(text, wide.passages, limit=GROUPS)
        if named is not None:
            found = await _in_each(
                calls, named, wanted, dense=vector is not None, passages=passages,
                bypass_cache=bypass_cache, seconds=seconds, neighbours=neighbours,
            )  # fmt: skip
            return _together(found, named.question)
    return await calls.search(
        text, vector, wanted, top_k=passages, bypass_cache=bypass_cache, seconds=seconds,
        neighbours=neighbours,
    )  # fmt: skip


async def _in_each(
    calls: FindingCalls,
    named: Scope,
    wanted: SearchFilter,
    *,
    dense: bool,
    passages: int,
    bypass_cache: bool,
    seconds: float,
    neighbours: bool,
) -> list[Found]:
    """One search a group, in the order of the groups."""
    vector: QueryVector | None = None
    if dense:
        try:
            vector = await calls.embed(named.question, bypass_cache=bypass_cache, seconds=seconds)
        except MeshError as error:
            log.warning("searching documents without a vector", reason=error.reason)
    each = max(_FEWEST, min(passages, _SHARED * passages // len(named.documents)))
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                calls.search(
                    named.question, vector, replace(wanted, document_ids=documents), top_k=each,
                    rerank=False, bypass_cache=bypass_cache, seconds=seconds,
                    neighbours=neighbours,
                )
            )
            for documents in named.documents
        ]  # fmt: skip
    found = [task.result() for task in tasks]
    if vector is not None:
        found[0] = replace(found[0], usage=(*vector.usage, *found[0].usage))
    return found


def _together(found: Sequence[Found], question: str) -> Found:
    """The passages of every search behind each other, with markers of their own."""
    passages: list[Passage] = []
    for number, one in enumerate(found, start=1):
        for passage in one.passages:
            facet = Facet(number, question)
            passages.append(replace(passage, marker=str(len(passages) + 1), facet=facet))
    return Found(
        tuple(passages),
        tuple(dict.fromkeys(stage for one in found for stage in one.degraded)),
        # The oldest state that was seen: an answer is not kept for a corpus it does not know.
        min(one.corpus_epoch for one in found),
        tuple(usage for one in found for usage in one.usage),
        neighbours=_all_neighbours(found),
    )


def _all_neighbours(found: Sequence[Found]) -> dict[str, Chunk] | None:
    chunks: dict[str, Chunk] = {}
    for one in found:
        if one.neighbours is None:
            return None
        chunks |= one.neighbours
    return chunks
