"""Embedding a call's texts: from the caches where allowed, from the model otherwise."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from meshkit import context, deadline
from meshkit.errors import BudgetExhausted, Internal, InvalidInput, MeshError
from meshkit.logging import logger
from meshkit.providers.errors import MalformedResponse, ProviderError
from meshkit.telemetry import metrics, span
from meshkit.usage import Budget, Spend
from services.embedding.directory import SpaceDirectory
from services.embedding.embedder import Embedded, Embedder, Task
from services.embedding.query_cache import CacheKey, QueryCache
from services.embedding.spaces import Identity
from services.embedding.stored_vectors import StoredVectors
from services.embedding.vectors import Vectors, checked

log = logger(__name__)

STAGE = "embed"
ACTIVE_SHARE = 0.6
"""Of the time left, what a question gives the active space before another one stands in."""

_texts = metrics.counter("citemesh.embedding.texts")
_model_seconds = metrics.histogram("citemesh.embedding.model.duration")


@dataclass(frozen=True, slots=True)
class Result:
    """The vectors of a call and what they took."""

    identity: Identity
    """The space."""
    vectors: Sequence[Vectors]
    """One for each text, in their order."""
    cached_count: int
    """Texts answered from a cache."""
    input_tokens: int
    """Tokens the model read; cached texts count none."""
    cost_micro_usd: int
    estimated: bool


class Embedding:
    """What the service does with texts, in either lane.

    Args:
        directory: Who embeds in which space.
        budget: Where spends are reserved and settled.
        memory: Vectors of recent questions in this process.
        stored: Vectors of questions in Postgres.
    """

    def __init__(
        self,
        directory: SpaceDirectory,
        budget: Budget,
        memory: QueryCache,
        stored: StoredVectors,
    ) -> None:
        self._directory = directory
        self._budget = budget
        self._memory = memory
        self._stored = stored

    async def embed(
        self, texts: Sequence[str], task: Task, *, space: str = "", bypass_cache: bool = False
    ) -> Result:
        """Embeds texts for the project of the current request.

        Args:
            texts: What to embed.
            task: Whether they are questions or documents.
            space: Name of the space; empty means the active one, and for questions
                a standby space when that one fails. A document belongs into every
                space, so nothing stands in there.
            bypass_cache: Neither read nor write a cache.

        Raises:
            NotFound: SPACE_UNKNOWN.
            InvalidInput: TOO_MANY_TEXTS.
            Internal: VECTOR_INVALID.
            BudgetExhausted, Unavailable: the budget or the provider.
        """
        embedder = self._directory.resolve(space)
        standbys = () if space or task is Task.DOCUMENT else self._directory.standbys()
        if not standbys:
            return await self._embed(embedder, texts, task, bypass_cache)
        try:
            with _share_of_time(ACTIVE_SHARE):
                return await self._embed(embedder, texts, task, bypass_cache)
        except (BudgetExhausted, InvalidInput):
            raise
        except MeshError as error:
            failed = error
        for standby in standbys:
            try:
                found = await self._embed(standby, texts, task, bypass_cache)
            except MeshError as error:
                log.warning(
                    "standby space failed", space=standby.identity.name, reason=error.reason
                )
                continue
            log.warning(
                "a standby space stood in",
                space=found.identity.name,
                active=embedder.identity.name,
                reason=failed.reason,
            )
            return found
        raise failed

    async def _embed(
        self, embedder: Embedder, texts: Sequence[str], task: Task, bypass_cache: bool
    ) -> Result:
        """Embeds in one space.

        Only questions are cached. They come again; a chunk comes once, and its vector
        is kept in the index anyway.
        """
        most = embedder.limits.max_texts_per_call
        if len(texts) > most:
            raise InvalidInput(
                "TOO_MANY_TEXTS",
                f"Space {embedder.identity.name} takes {most} texts a call, not {len(texts)}.",
            )
        cacheable = task is Task.QUERY and not bypass_cache
        keys = _keys(embedder.identity.name, task, texts)
        found = await self._cached(embedder, keys) if cacheable else {}
        # The same text twice in a call is computed once.
        missing = {k: text for k, text in zip(keys, texts, strict=True) if k not in found}
        cached_count = sum(1 for key in keys if key in found)
        spent = Embedded(np.empty((0, 0), np.float32), 0)
        if missing:
            spent = await self._compute(embedder, list(missing.values()), task)
            for key, vector in zip(missing, spent.vectors, strict=True):
                found[key] = vector
                if cacheable:
                    self._remember(embedder, key, vector)
        _texts.add(cached_count, {"source": "cache", "task": task.value})
        _texts.add(len(texts) - cached_count, {"source": "model", "task": task.value})
        return Result(
            embedder.identity,
            [found[key] for key in keys],
            cached_count,
            spent.input_tokens,
            spent.cost_micro_usd,
            spent.estimated,
        )

    async def _cached(
        self, embedder: Embedder, keys: Sequence[CacheKey]
    ) -> dict[CacheKey, Vectors]:
        found = {key: vector for key in keys if (vector := self._memory.get(key)) is not None}
        if embedder.worth_caching and len(found) < len(keys):
            stored = await self._stored.read([key for key in keys if key not in found])
            for key, vector in stored.items():
                self._memory.put(key, vector)
            found |= stored
        return found

    def _remember(self, embedder: Embedder, key: CacheKey, vector: Vectors) -> None:
        self._memory.put(key, vector)
        if embedder.worth_caching:
            self._stored.write_later(key, vector)

    async def _compute(self, embedder: Embedder, texts: Sequence[str], task: Task) -> Embedded:
        identity = embedder.identity
        spend = self._budget.spend(
            estimate_micro_usd=embedder.estimate_micro_usd(texts),
            stage=STAGE,
            provider=identity.provider,
            model=identity.model,
        )
        started = time.perf_counter()
        with span(
            "embedding.model", {"citemesh.space": identity.name, "citemesh.texts": len(texts)}
        ):
            async with spend as settlement:
                embedded = await _embedded(embedder, texts, task, settlement)
                settlement.settle(
                    input_tokens=embedded.input_tokens, cost_micro_usd=embedded.cost_micro_usd
                )
        _model_seconds.record(time.perf_counter() - started, {"task": task.value})
        checked(
            embedded.vectors,
            texts=len(texts),
            dimensions=identity.dimensions,
            normalized=identity.normalized,
        )
        return embedded

    async def purge(self, project_id: str) -> int:
        """Forgets a project's cached vectors; returns how many copies, stored and in memory."""
        in_memory = self._memory.forget_project(project_id)
        return in_memory + await self._stored.purge(project_id)


async def _embedded(embedder: Embedder, texts: Sequence[str], task: Task, spend: Spend) -> Embedded:
    """What the provider gives.

    Another provider's vectors belong to another space: nobody can stand in here.
    """
    try:
        return await embedder.embed(texts, task)
    except ProviderError as error:
        if error.billed:
            estimate = embedder.estimate_micro_usd(texts)
            spend.settle(input_tokens=0, cost_micro_usd=estimate)
        if not isinstance(error, MalformedResponse):
            raise error.as_mesh_error() from None
        raise Internal(
            "VECTOR_INVALID",
            f"{error.target.provider} returned vectors that space {embedder.identity.name} cannot "
            "hold; they were not used.",
        ) from None


@contextmanager
def _share_of_time(share: float) -> Iterator[None]:
    """Inside the block a share of what is left of the request's time."""
    left = deadline.remaining()
    if left is None:
        yield
    else:
        with deadline.within(left * share):
            yield


def _keys(space: str, task: Task, texts: Sequence[str]) -> list[CacheKey]:
    project_id = context.current().project_id
    return [
        CacheKey(project_id, space, task, hashlib.sha256(text.encode()).digest()) for text in texts
    ]
