"""Writing chunks, and the only place where a version becomes or stops being live.

Every write names the writer's lease epoch. The document's row remembers the
highest one and is locked for the length of the transaction, so a worker that
lost its lease is refused and two writers never interleave.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from meshkit.database.pool import Connection, Database
from meshkit.errors import Fenced, NotFound, Precondition, Unavailable
from services.retrieval.deletion import Purge, delete_chunks, hold_off_purge, purge_project
from services.retrieval.lexical import VersionKey
from services.retrieval.outbox import LexicalProjection
from services.retrieval.passages import (
    ChunkDraft,
    Presentation,
    Vectors,
    Version,
    check_texts,
)
from services.retrieval.requests import remember, remembered
from services.retrieval.spaces import SpaceTables, check_vectors

UPSERT_CHUNKS = """
    WITH draft AS (
        SELECT * FROM jsonb_to_recordset($4::jsonb) AS x (
            ordinal integer, body text, page integer, page_end integer, headings text[],
            span_start bigint, span_end bigint, section text, token_count integer,
            language text, flags text[], place integer
        )
    ), stored AS (
        INSERT INTO retrieval.chunk (
            project_id, document_id, version, ordinal, body, page, page_end, headings,
            span_start, span_end, section, token_count, language, flags
        )
        SELECT $1, $2, $3, ordinal, body, page, page_end, headings, span_start, span_end,
               section, token_count, language, flags
        FROM draft ORDER BY ordinal
        ON CONFLICT (project_id, document_id, version, ordinal) DO UPDATE SET
            body = excluded.body, page = excluded.page, page_end = excluded.page_end,
            headings = excluded.headings, span_start = excluded.span_start,
            span_end = excluded.span_end, section = excluded.section,
            token_count = excluded.token_count, language = excluded.language,
            flags = excluded.flags
        RETURNING id, ordinal
    )
    INSERT INTO retrieval.dense_{number:d} (chunk_key, project_id, document_id, version, embedding)
    SELECT s.id, $1, $2, $3,
           ($5::real[])[ d.place * $6::integer + 1 : (d.place + 1) * $6::integer ]
               ::public.halfvec({dimensions:d})
    FROM stored s JOIN draft d USING (ordinal)
    ON CONFLICT (chunk_key) DO UPDATE SET embedding = excluded.embedding
"""

# No row when the project was purged.
LOCK_DOCUMENT = """
    INSERT INTO retrieval.document AS d (project_id, document_id, lease_epoch)
    SELECT $1::text, $2::text, $3::bigint
    WHERE NOT EXISTS (SELECT FROM retrieval.purged_project WHERE project_id = $1::text)
    ON CONFLICT (project_id, document_id)
    DO UPDATE SET lease_epoch = greatest(d.lease_epoch, excluded.lease_epoch)
    RETURNING d.lease_epoch, d.live_version, d.removed_at IS NOT NULL AS removed, d.live_chunks,
              d.xmax = 0 AS created
"""

BUMP_EPOCH = """
    INSERT INTO retrieval.project_state AS s (project_id, corpus_epoch, live_chunks)
    VALUES ($1, 1, greatest($2, 0))
    ON CONFLICT (project_id) DO UPDATE
    SET corpus_epoch = s.corpus_epoch + 1, live_chunks = greatest(s.live_chunks + $2, 0)
    RETURNING corpus_epoch
"""

QUEUE = (
    "INSERT INTO retrieval.lexical_outbox (project_id, document_id, version) VALUES ($1, $2, $3)"
)

# Versions below $3 leave all indexes; their rows are collected in the background.
RETIRE = """
    WITH gone AS (
        SELECT DISTINCT version FROM retrieval.chunk
        WHERE project_id = $1 AND document_id = $2 AND version < $3
        UNION
        SELECT version FROM retrieval.document_version
        WHERE project_id = $1 AND document_id = $2 AND version < $3
    ), unstaged AS (
        DELETE FROM retrieval.document_version
        WHERE project_id = $1 AND document_id = $2 AND version < $3
    ), queued AS (
        INSERT INTO retrieval.lexical_outbox (project_id, document_id, version)
        SELECT $1, $2, version FROM gone
    ), unwanted AS (
        DELETE FROM retrieval.space_work
        WHERE project_id = $1 AND document_id = $2 AND version < $3
    )
    INSERT INTO retrieval.retired_version (project_id, document_id, version)
    SELECT $1, $2, version FROM gone
    ON CONFLICT DO NOTHING
"""
BEYOND_ALL_VERSIONS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Removal:
    """What a removal did."""

    corpus_epoch: int
    removed: bool
    """False when the document was not there."""


class Corpus:
    """Writes to the documents of a project."""

    def __init__(
        self,
        database: Database,
        spaces: SpaceTables,
        projection: LexicalProjection,
        wake: Sequence[asyncio.Event] = (),
    ) -> None:
        self._database = database
        self._spaces = spaces
        self._projection = projection
        self._wake = wake
        """Set when outbox, garbage and spaces may have work."""
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        """Batches of one document are written one after the other anyway: those that wait do so
        here, and not each with a connection and, should the process freeze, the row in turn."""

    async def index_chunks(
        self,
        project_id: str,
        version: Version,
        space: str,
        drafts: Sequence[ChunkDraft],
        vectors: Vectors,
        *,
        space_version: str = "",
    ) -> int:
        """Stores a batch of a version that is not live; returns how many chunks it has now.

        Args:
            project_id: Project of the document.
            version: Version the chunks belong to, with the writer's lease.
            space: Space of the vectors.
            drafts: The chunks, in any order.
            vectors: Shape (len(drafts), dimensions), in the order of `drafts`.
            space_version: Fingerprint of the model they come from, if known.

        Raises:
            Fenced: FENCED, or VERSION_SUPERSEDED when a newer version is live.
            Precondition: SPACE_MISMATCH, SPACE_RETIRED or DOCUMENT_REMOVED.
            NotFound: PROJECT_PURGED.
            InvalidInput: VECTOR_INVALID or CHUNK_INVALID.
        """
        check_texts(drafts)
        check_vectors(vectors, space)
        number = await self._spaces.ensure(space, space_version)
        where = (project_id, version.document_id, version.version)
        turn = self._turns.setdefault((project_id, version.document_id), asyncio.Lock())
        async with turn, self._database.project(project_id) as connection:
            live = await _lock(connection, project_id, version)
            # A batch that comes again after activation changes nothing.
            if live["live_version"] != version.version:
                dimensions = vectors.shape[1]
                await connection.execute(
                    UPSERT_CHUNKS.format(number=number, dimensions=dimensions),
                    *where,
                    json.dumps([_record(draft, i) for i, draft in enumerate(drafts)]),
                    vectors.ravel().tolist(),
                    dimensions,
                )
            return await _count(connection, where)

    async def activate(
        self, project_id: str, version: Version, show: Presentation, chunk_count: int
    ) -> int:
        """Makes a version live once both indexes hold it; returns the corpus epoch.

        Raises:
            Fenced: FENCED or VERSION_SUPERSEDED.
            Precondition: CHUNKS_MISSING or DOCUMENT_REMOVED.
            NotFound: PROJECT_PURGED.
            Unavailable: VECTORS_PENDING: the active space has changed since the chunks were
                embedded; theirs are on the way.
        """
        where = (project_id, version.document_id, version.version)
        async with self._database.project(project_id) as connection:
            live = await _lock(connection, project_id, version)
            unchanged = (
                live["live_version"] == version.version
                and live["live_chunks"] == chunk_count
                and await _shows(connection, where, show)
            )
            if unchanged:
                return await _epoch(connection, project_id)
            await self._drop_surplus(connection, where, chunk_count)
            await _require(connection, where, chunk_count)
            await connection.execute(
                "INSERT INTO retrieval.document_version AS v (project_id, document_id, version, "
                "title, labels, allow, media_type) VALUES ($1, $2, $3, $4, $5, $6, $7) "
                "ON CONFLICT (project_id, document_id, version) DO UPDATE SET "
                "title = excluded.title, labels = excluded.labels, allow = excluded.allow, "
                "media_type = excluded.media_type, staged_at = now()",
                *where,
                show.title,
                json.dumps(dict(show.labels)),
                list(show.allow),
                show.media_type,
            )
            await connection.execute(QUEUE, *where)
        await self._projection.reach(VersionKey(*where))
        async with self._database.project(project_id) as connection:
            live = await _lock(connection, project_id, version)
            await _require(connection, where, chunk_count)
            # Also what the version lacks in the spaces beside the active one is noted here.
            pending = await connection.fetchval(
                "SELECT retrieval.spread_version($1, $2, $3, $4)", *where, chunk_count
            )
            epoch = 0 if pending else await self._move(connection, where, live, chunk_count)
        self._wake_all()
        if pending:
            raise Unavailable(
                "VECTORS_PENDING",
                f"{pending} chunks have no vector in the active space yet; they are on the way.",
                retry_after=1.0,
            )
        return epoch

    async def _move(
        self, connection: Connection, where: tuple[str, str, int], live: Any, chunk_count: int
    ) -> int:
        """Moves the live pointer; returns the corpus epoch."""
        moved = await connection.fetchval(
            "UPDATE retrieval.document d SET live_version = v.version, title = v.title, "
            "labels = v.labels, allow = v.allow, media_type = v.media_type, "
            "live_chunks = $4, activated_at = now() FROM retrieval.document_version v "
            "WHERE d.project_id = $1 AND d.document_id = $2 AND v.project_id = $1 "
            "AND v.document_id = $2 AND v.version = $3 RETURNING true",
            *where,
            chunk_count,
        )
        if not moved:
            # Another call removed what this one had staged.
            raise Fenced("FENCED", "Another writer took over while the version was indexed.")
        await connection.execute(RETIRE, *where)
        epoch: int = await connection.fetchval(
            BUMP_EPOCH, where[0], chunk_count - live["live_chunks"]
        )
        return epoch

    async def _drop_surplus(
        self, connection: Connection, where: tuple[str, str, int], chunk_count: int
    ) -> None:
        """Removes chunks that an earlier, differently cut attempt left behind."""
        keys = await connection.fetchval(
            "SELECT array_agg(id) FROM retrieval.chunk WHERE project_id = $1 "
            "AND document_id = $2 AND version = $3 AND ordinal >= $4",
            *where,
            chunk_count,
        )
        if keys:
            await delete_chunks(connection, keys)

    async def remove(
        self, project_id: str, document_id: str, lease_epoch: int, request_id: str
    ) -> Removal:
        """Takes a document out of every answer, at once and for ever.

        Raises:
            Fenced: FENCED for an older lease.
            NotFound: PROJECT_PURGED.
        """
        async with self._database.project(project_id) as connection:
            before = await remembered(connection, project_id, request_id, "RemoveDocument")
            if before is not None:
                return Removal(before["corpus_epoch"], before["removed"])
            row = await _lock_for(connection, project_id, document_id, lease_epoch)
            was_live = row["live_version"] is not None
            await connection.execute(
                "UPDATE retrieval.document SET live_version = NULL, live_chunks = 0, "
                "removed_at = coalesce(removed_at, now()), title = '', labels = '{}', "
                "allow = '{}' WHERE project_id = $1 AND document_id = $2",
                project_id,
                document_id,
            )
            await connection.execute(RETIRE, project_id, document_id, BEYOND_ALL_VERSIONS)
            if was_live:
                epoch = await connection.fetchval(BUMP_EPOCH, project_id, -row["live_chunks"])
            else:
                epoch = await _epoch(connection, project_id)
            removal = Removal(epoch, removed=not row["created"] and not row["removed"])
            result = {"corpus_epoch": removal.corpus_epoch, "removed": removal.removed}
            await remember(connection, project_id, request_id, "RemoveDocument", result)
        self._wake_all()
        return removal

    def _wake_all(self) -> None:
        for event in self._wake:
            event.set()

    async def purge(self, project_id: str) -> Purge:
        """Removes everything of a project for ever, from Postgres and the lexical index."""
        receipt = await purge_project(self._database, project_id)
        await self._projection.reach(VersionKey(project_id, "", 0))
        return receipt


async def _lock(connection: Connection, project_id: str, version: Version) -> Any:
    """Locks the document for the writer, or refuses it."""
    row = await _lock_for(connection, project_id, version.document_id, version.lease_epoch)
    if row["removed"]:
        raise Precondition(
            "DOCUMENT_REMOVED", f"Document {version.document_id} was removed; upload it anew."
        )
    if row["live_version"] is not None and row["live_version"] > version.version:
        raise Fenced(
            "VERSION_SUPERSEDED",
            f"Version {row['live_version']} of the document is live; {version.version} is older.",
        )
    return row


async def _lock_for(
    connection: Connection, project_id: str, document_id: str, lease_epoch: int
) -> Any:
    """Locks the document's row, creating it, unless a newer lease was seen or all was purged."""
    # A statement of its own: the next one has to see what a purge committed meanwhile.
    await hold_off_purge(connection, project_id)
    row: Any = await connection.fetchrow(LOCK_DOCUMENT, project_id, document_id, lease_epoch)
    if row is None:
        raise NotFound("PROJECT_PURGED", f"The project {project_id} was removed.")
    if row["lease_epoch"] > lease_epoch:
        raise Fenced(
            "FENCED",
            f"Lease {lease_epoch} was lost: the document is written under a newer one.",
            metadata={"given": str(lease_epoch), "current": str(row["lease_epoch"])},
        )
    return row


async def _shows(connection: Connection, where: tuple[str, str, int], show: Presentation) -> bool:
    """True when the live version already shows as asked for."""
    row = await connection.fetchrow(
        "SELECT title, labels, allow, media_type FROM retrieval.document "
        "WHERE project_id = $1 AND document_id = $2 AND live_version = $3",
        *where,
    )
    return row is not None and (
        row["title"] == show.title
        and json.loads(row["labels"]) == dict(show.labels)
        and row["allow"] == list(show.allow)
        and row["media_type"] == show.media_type
    )


async def _require(connection: Connection, where: tuple[str, str, int], chunk_count: int) -> None:
    stored = await _count(connection, where)
    if stored < chunk_count:
        raise Precondition(
            "CHUNKS_MISSING",
            f"{stored} of {chunk_count} chunks are stored; send the missing batches again.",
            metadata={"stored": str(stored), "announced": str(chunk_count)},
        )


async def _count(connection: Connection, where: tuple[str, str, int]) -> int:
    count: int = await connection.fetchval(
        "SELECT count(*) FROM retrieval.chunk "
        "WHERE project_id = $1 AND document_id = $2 AND version = $3",
        *where,
    )
    return count


async def _epoch(connection: Connection, project_id: str) -> int:
    epoch: int | None = await connection.fetchval(
        "SELECT corpus_epoch FROM retrieval.project_state WHERE project_id = $1", project_id
    )
    return epoch or 0


def _record(draft: ChunkDraft, place: int) -> dict[str, object]:
    at = draft.location
    return {
        "ordinal": draft.ordinal,
        "body": draft.text,
        "page": at.page,
        "page_end": at.page_end,
        "headings": list(at.headings),
        "span_start": at.start,
        "span_end": at.end,
        "section": at.section,
        "token_count": draft.token_count,
        "language": draft.language,
        "flags": list(draft.flags),
        "place": place,
    }
