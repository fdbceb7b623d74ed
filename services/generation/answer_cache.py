"""Answers given before: to the same question, and to one that is alike.

The exact look needs no vector. The semantic one finds questions of the same scope by cosine, and
lets words decide (`same_question.py`). Both serve nothing that was answered over another corpus, to
other principals, under another filter or by another model. A cache that fails is no cache.

Both look under the state of the corpus that the last search saw. Only what is found is worth asking
retrieval whether that is still the state: most questions find nothing, and ask nobody.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from meshkit.context import RequestContext
from meshkit.errors import MeshError
from meshkit.logging import logger
from services.generation.answers import CacheStatus, Done, Question, Sources
from services.generation.cache_key import cache_key, scope_key
from services.generation.calls.finding import FindingCalls, QueryVector
from services.generation.confidence import Confidence
from services.generation.same_question import same_question
from services.generation.store import Alike, Entry, Store

log = logger(__name__)

FAILURES = (MeshError, asyncpg.PostgresError)
"""What may happen to a cache: also a deadlock with a replica that forgets the same answers."""


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, MeshError) else type(error).__name__


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as it was searched, and who asks it."""

    question: Question
    searched: str
    caller: RequestContext


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer to serve again."""

    sources: Sources
    done: Done
    cache: CacheStatus


class AnswerCache:
    """Looks for answers, and says what they are kept by.

    Args:
        store: Where they are kept.
        finding: Tells the state of the corpus.
        model: Provider and model that answer.
        similarity: Cosine from which a question may be alike; 0 looks for the same one only.
    """

    def __init__(
        self, store: Store, finding: FindingCalls, model: str, *, similarity: float
    ) -> None:
        self._store = store
        self._finding = finding
        self._model = model
        self._similarity = similarity
        self._epochs: dict[str, int] = {}
        """State of each project's corpus, as last seen here."""

    async def look(
        self, asked: Asked, embedding: asyncio.Task[QueryVector | None], *, seconds: float
    ) -> Kept | None:
        """An answer to this question, or to one alike, over the corpus as it is now.

        Args:
            asked: The question.
            embedding: Its vector to come; waited for when the same question was not asked before.
            seconds: Time retrieval has to tell the state of the corpus.
        """
        try:
            return await self._look(asked, embedding, seconds)
        except FAILURES as error:
            log.warning("answering without the cache", reason=_reason(error))
            return None

    async def saw(self, project_id: str, corpus_epoch: int) -> None:
        """Notes the state of a corpus.

        A new one also forgets what was answered over older ones, so that no text of a removed
        document stays behind.
        """
        if self._epochs.get(project_id) == corpus_epoch:
            return
        self._epochs[project_id] = corpus_epoch
        try:
            await self._store.forget_answers(project_id, before_epoch=corpus_epoch)
        except FAILURES as error:
            # It is never served again, and goes with the next change or when it expires.
            log.warning("older answers not forgotten", reason=_reason(error))

    async def _look(
        self, asked: Asked, embedding: asyncio.Task[QueryVector | None], seconds: float
    ) -> Kept | None:
        seen, kept = self._epochs.get(asked.caller.project_id), None
        if seen is not None:
            kept = await self._look_under(asked, seen, embedding)
            if kept is None:
                return None
        now = await self._finding.corpus_epoch(seconds=seconds)
        if now != seen:
            await self.saw(asked.caller.project_id, now)
            kept = await self._look_under(asked, now, embedding)
        return kept

    async def _look_under(
        self, asked: Asked, corpus_epoch: int, embedding: asyncio.Task[QueryVector | None]
    ) -> Kept | None:
        if kept := await self._exact(asked, corpus_epoch):
            return kept
        if not self._similarity:
            return None
        vector = await embedding
        return await self._alike_one(asked, corpus_epoch, vector) if vector else None

    async def _exact(self, asked: Asked, corpus_epoch: int) -> Kept | None:
        key = self._key(asked, corpus_epoch)
        found = await self._store.cached(asked.caller.project_id, key, corpus_epoch)
        return Kept(*found, CacheStatus.EXACT) if found else None

    async def _alike_one(self, asked: Asked, corpus_epoch: int, vector: QueryVector) -> Kept | None:
        found = await self._store.alike(
            asked.caller.project_id,
            self._alike(asked, corpus_epoch, vector),
            similarity=self._similarity,
        )
        for text, sources, done in found:
            if same_question(asked.searched, text):
                return Kept(sources, done, CacheStatus.SEMANTIC)
        return None

    def entry(
        self,
        asked: Asked,
        corpus_epoch: int,
        vector: QueryVector | None,
        sources: Sources,
        done: Done,
    ) -> Entry | None:
        """What a complete answer is kept by; None for a degraded or ungrounded one."""
        if done.degraded or done.confidence is Confidence.UNGROUNDED:
            return None
        semantic = self._similarity and vector is not None
        return Entry(
            self._key(asked, corpus_epoch),
            corpus_epoch,
            sources,
            self._alike(asked, corpus_epoch, vector) if semantic and vector else None,
        )

    def _key(self, asked: Asked, corpus_epoch: int) -> bytes:
        return cache_key(
            asked.question,
            asked.searched,
            project_id=asked.caller.project_id,
            principals=asked.caller.principals,
            corpus_epoch=corpus_epoch,
            model=self._model,
            settings=asked.caller.settings,
        )

    def _alike(self, asked: Asked, corpus_epoch: int, vector: QueryVector) -> Alike:
        scope = scope_key(
            asked.question,
            project_id=asked.caller.project_id,
            principals=asked.caller.principals,
            corpus_epoch=corpus_epoch,
            model=self._model,
            space=vector.space,
            settings=asked.caller.settings,
        )
        values: Sequence[float] = vector.values
        return Alike(scope, values)
