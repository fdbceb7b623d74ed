"""What generation remembers: answers to serve again, conversations, answers and feedback."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from meshkit.context import RequestContext
from meshkit.database.pool import Database
from meshkit.errors import NotFound
from meshkit.logging import logger
from services.generation import cached_answer
from services.generation.answers import Done, Sources

log = logger(__name__)

_SEPARATOR = "\x1f"

_PURGE_LOCK = 0x67656E70
"""With a project: writers hold it shared, a purge alone."""
_NEAREST = 5
"""Questions that are compared word by word."""
_PURGES_REMEMBERED = timedelta(days=1)
"""Longer than any context or answer lasts."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a purge removed."""

    answers: int
    conversations: int


@dataclass(frozen=True, slots=True)
class Alike:
    """What a question is found by when it is asked in other words."""

    scope: bytes
    """Questions of another scope are never compared."""
    vector: Sequence[float]
    """Of the length of its space, which is part of the scope."""

    @property
    def literal(self) -> str:
        """The vector as pgvector reads it."""
        return f"[{','.join(map(repr, self.vector))}]"


@dataclass(frozen=True, slots=True)
class Entry:
    """What an answer is served again by."""

    key: bytes
    """Of all it depends on."""
    corpus_epoch: int
    sources: Sources
    like: Alike | None
    """None when it is found for the same question only."""


def owner_of(caller: RequestContext) -> str:
    """Whom a conversation belongs to: everyone who has exactly the caller's principals."""
    return _SEPARATOR.join(sorted(caller.principals)) or caller.subject


class Store:
    """Schema `generation`, one transaction a method."""

    def __init__(
        self, database: Database, *, cache_lifetime: timedelta, retention: timedelta
    ) -> None:
        self._database = database
        self._cache_lifetime = cache_lifetime
        self._retention = retention

    async def searched_before(
        self, caller: RequestContext, conversation_id: str, turns: int
    ) -> list[str]:
        """What the last turns of the caller's conversation searched for, the last one first."""
        async with self._database.project(caller.project_id) as connection:
            rows = await connection.fetch(
                "SELECT searched FROM generation.turn"
                " WHERE conversation_id = $1 AND owner = $2 ORDER BY number DESC LIMIT $3",
                conversation_id,
                owner_of(caller),
                turns,
            )
        return [row["searched"] for row in rows]

    async def cached(
        self, project_id: str, key: bytes, corpus_epoch: int
    ) -> tuple[Sources, Done] | None:
        """The answer kept under a key; None when there is none."""
        async with self._database.connection() as connection:
            payload: str | None = await connection.fetchval(
                "SELECT generation.cached($1, $2, $3, $4)", project_id, key, corpus_epoch, False
            )
        return cached_answer.decode(payload) if payload is not None else None

    async def forget_answers(self, project_id: str, *, before_epoch: int) -> None:
        """Forgets what was answered over older states of a corpus."""
        async with self._database.project(project_id) as connection:
            await connection.execute(
                "DELETE FROM generation.answer_cache WHERE corpus_epoch < $1", before_epoch
            )

    async def alike(
        self, project_id: str, like: Alike, *, similarity: float
    ) -> list[tuple[str, Sources, Done]]:
        """Questions of the same scope at least so alike, with their answers, nearest first."""
        async with self._database.project(project_id) as connection:
            rows = await connection.fetch(
                "SELECT asked, payload FROM ("
                " SELECT asked, payload, vector <=> $2::text::public.vector AS distance"
                " FROM generation.answer_cache WHERE scope = $1 AND expires_at > now()"
                " ORDER BY distance LIMIT $3) AS nearest WHERE distance <= $4",
                like.scope,
                like.literal,
                _NEAREST,
                1 - similarity,
            )
        return [(row["asked"], *cached_answer.decode(row["payload"])) for row in rows]

    async def record(
        self,
        caller: RequestContext,
        question: str,
        searched: str,
        done: Done,
        kept: Entry | None = None,
    ) -> None:
        """Notes an answer, the turn it makes in its conversation, and what it is served again by.

        Nothing is noted when the project was purged meanwhile: nobody could purge it again.

        Args:
            caller: Who asked.
            question: As it was asked.
            searched: As it was searched for.
            done: The answer.
            kept: With it the answer is found for the same question, or one alike.
        """
        kept = kept if self._cache_lifetime else None
        like = kept.like if kept else None
        async with self._database.connection() as connection:
            noted: bool = await connection.fetchval(
                "SELECT generation.remember($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,"
                " $13, $14, $15, $16, $17, $18)",
                caller.project_id,
                done.answer_id,
                done.conversation_id,
                caller.subject,
                done.provider,
                done.model,
                done.confidence.value,
                done.cache.value,
                owner_of(caller),
                question,
                searched,
                kept.key if kept else None,
                kept.corpus_epoch if kept else None,
                cached_answer.encode(kept.sources, done) if kept else None,
                self._cache_lifetime,
                like.scope if like else None,
                like.literal if like else None,
                _PURGE_LOCK,
            )
        if not noted:
            log.info("answer not stored, its project was purged", project_id=caller.project_id)

    async def feedback(
        self, caller: RequestContext, answer_id: str, rating: int, comment: str, request_id: str
    ) -> None:
        """Notes what a user thought; a repeated request id changes nothing.

        Raises:
            NotFound: ANSWER_UNKNOWN.
        """
        try:
            async with self._database.project(caller.project_id) as connection:
                await connection.execute(
                    "INSERT INTO generation.feedback"
                    " (project_id, request_id, answer_id, subject, rating, comment)"
                    " VALUES ($1, $2, $3, $4, $5, $6)"
                    " ON CONFLICT (project_id, request_id) DO NOTHING",
                    caller.project_id,
                    request_id,
                    answer_id,
                    caller.subject,
                    rating,
                    comment,
                )
        except asyncpg.ForeignKeyViolationError:
            raise NotFound(
                "ANSWER_UNKNOWN", "There is no answer of this name in the project."
            ) from None

    async def purge(self, project_id: str) -> Receipt:
        """Forgets everything of a project; answers under way for it are not noted any more."""
        async with self._database.project(project_id) as connection:
            await connection.execute(
                "SELECT pg_advisory_xact_lock($1, hashtext($2))", _PURGE_LOCK, project_id
            )
            await connection.execute(
                "INSERT INTO generation.purged_project (project_id) VALUES ($1)"
                " ON CONFLICT (project_id) DO UPDATE SET purged_at = now()",
                project_id,
            )
            await connection.execute("DELETE FROM generation.answer_cache")
            answers: int = await connection.fetchval(
                "WITH gone AS (DELETE FROM generation.answer RETURNING 1) SELECT count(*) FROM gone"
            )
            conversations: int = await connection.fetchval(
                "WITH gone AS (DELETE FROM generation.conversation RETURNING 1)"
                " SELECT count(*) FROM gone"
            )
        return Receipt(answers, conversations)

    async def sweep(self) -> int:
        """Forgets what is over: expired answers, conversations and answers past retention."""
        async with self._database.connection() as connection:
            removed: int = await connection.fetchval("SELECT generation.sweep($1)", self._retention)
            await connection.execute("SELECT generation.forget_purged($1)", _PURGES_REMEMBERED)
        return removed
