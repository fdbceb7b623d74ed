"""What generation remembers: answers to serve again, conversations, answers and feedback."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from meshkit.context import RequestContext
from meshkit.database.pool import Connection, Database
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
    asked: str
    """As it was searched for."""
    vector: Sequence[float]
    """Of the length of its space, which is part of the scope."""

    @property
    def literal(self) -> str:
        """The vector as pgvector reads it."""
        return f"[{','.join(map(repr, self.vector))}]"


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
        self._epochs: dict[str, int] = {}

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
        """The answer kept under a key; None when there is none.

        The first look after the corpus changed also forgets what was answered before that, so
        that no text of a removed document stays behind.
        """
        async with self._database.project(project_id) as connection:
            if self._epochs.get(project_id) != corpus_epoch:
                await connection.execute(
                    "DELETE FROM generation.answer_cache WHERE corpus_epoch < $1", corpus_epoch
                )
            payload: str | None = await connection.fetchval(
                "SELECT payload FROM generation.answer_cache"
                " WHERE key = $1 AND corpus_epoch = $2 AND expires_at > now()",
                key,
                corpus_epoch,
            )
        self._epochs[project_id] = corpus_epoch
        return cached_answer.decode(payload) if payload is not None else None

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

    async def keep(
        self,
        project_id: str,
        key: bytes,
        corpus_epoch: int,
        sources: Sources,
        done: Done,
        like: Alike | None = None,
    ) -> None:
        """Keeps an answer to serve it again, unless its project was purged meanwhile.

        With `like` it is also found for questions that are alike.
        """
        if not self._cache_lifetime:
            return
        async with self._database.project(project_id) as connection:
            if await _purged(connection, project_id):
                return
            await connection.execute(
                "INSERT INTO generation.answer_cache"
                " (project_id, key, corpus_epoch, payload, expires_at, scope, asked, vector)"
                " VALUES ($1, $2, $3, $4, now() + $5, $6, $7, $8::text::public.vector)"
                " ON CONFLICT (project_id, key) DO UPDATE"
                " SET payload = excluded.payload, expires_at = excluded.expires_at,"
                " scope = excluded.scope, asked = excluded.asked, vector = excluded.vector",
                project_id,
                key,
                corpus_epoch,
                cached_answer.encode(sources, done),
                self._cache_lifetime,
                like.scope if like else None,
                like.asked if like else None,
                like.literal if like else None,
            )

    async def record(
        self, caller: RequestContext, question: str, searched: str, done: Done
    ) -> None:
        """Notes an answer, and the turn it makes in its conversation.

        Nothing is noted when the project was purged meanwhile: nobody could purge it again.
        """
        async with self._database.project(caller.project_id) as connection:
            if await _purged(connection, caller.project_id):
                return
            await connection.execute(
                "INSERT INTO generation.answer (project_id, answer_id, conversation_id, subject,"
                " provider, model, confidence, cache) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                caller.project_id,
                done.answer_id,
                done.conversation_id,
                caller.subject,
                done.provider,
                done.model,
                done.confidence.value,
                done.cache.value,
            )
            if not done.conversation_id:
                return
            owner = owner_of(caller)
            number: int = await connection.fetchval(
                "INSERT INTO generation.conversation (project_id, conversation_id, owner, turns)"
                " VALUES ($1, $2, $3, 1) ON CONFLICT (project_id, conversation_id, owner)"
                " DO UPDATE SET turns = conversation.turns + 1, updated_at = now()"
                " RETURNING turns",
                caller.project_id,
                done.conversation_id,
                owner,
            )
            await connection.execute(
                "INSERT INTO generation.turn (project_id, conversation_id, owner, number,"
                " question, searched) VALUES ($1, $2, $3, $4, $5, $6)",
                caller.project_id,
                done.conversation_id,
                owner,
                number,
                question,
                searched,
            )

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
        self._epochs.pop(project_id, None)
        return Receipt(answers, conversations)

    async def sweep(self) -> int:
        """Forgets what is over: expired answers, conversations and answers past retention."""
        async with self._database.connection() as connection:
            removed: int = await connection.fetchval("SELECT generation.sweep($1)", self._retention)
            await connection.execute("SELECT generation.forget_purged($1)", _PURGES_REMEMBERED)
        return removed


async def _purged(connection: Connection, project_id: str) -> bool:
    """Whether nothing may be written for the project; a purge waits for this transaction."""
    await connection.execute(
        "SELECT pg_advisory_xact_lock_shared($1, hashtext($2))", _PURGE_LOCK, project_id
    )
    # A statement of its own: it sees what was committed while the lock was waited for.
    purged: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM generation.purged_project WHERE project_id = $1)", project_id
    )
    if purged:
        log.info("answer not stored, its project was purged", project_id=project_id)
    return purged
