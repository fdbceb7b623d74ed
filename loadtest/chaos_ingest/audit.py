"""What Postgres itself says of the end: triggers that watch during a run, queries after it.

The triggers write down, in the transaction that does it, which lease epoch a write to
retrieval was made with and which one the document's row then held. A write by a worker that
had lost its lease would be a committed transaction in which the two differ.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import asyncpg

from loadtest.chaos_ingest.faults import WORKERS, Fault, Kind

WATCH = """
    DROP SCHEMA IF EXISTS chaos CASCADE;
    CREATE SCHEMA chaos;
    CREATE TABLE chaos.event (
        seq         bigserial PRIMARY KEY,
        tx          xid8 NOT NULL DEFAULT pg_current_xact_id(),
        kind        text NOT NULL,
        project_id  text NOT NULL,
        document_id text NOT NULL,
        version     bigint,
        epoch       bigint,
        owner       text,
        at          timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE FUNCTION chaos.given() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = chaos, pg_temp AS $body$
    BEGIN
        INSERT INTO event (kind, project_id, document_id, epoch)
        VALUES ('given', NEW.project_id, NEW.document_id, NEW.lease_epoch);
        RETURN NEW;
    END $body$;
    CREATE FUNCTION chaos.held() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = chaos, pg_temp AS $body$
    BEGIN
        INSERT INTO event (kind, project_id, document_id, epoch)
        VALUES ('held', NEW.project_id, NEW.document_id, NEW.lease_epoch);
        IF TG_OP = 'UPDATE' AND NEW.live_version IS DISTINCT FROM OLD.live_version THEN
            INSERT INTO event (kind, project_id, document_id, version)
            VALUES ('activated', NEW.project_id, NEW.document_id, NEW.live_version);
        END IF;
        RETURN NULL;
    END $body$;
    CREATE FUNCTION chaos.worked() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = chaos, pg_temp AS $body$
    DECLARE
        v_kind text;
    BEGIN
        v_kind := CASE
            WHEN NEW.lease_epoch > OLD.lease_epoch THEN 'claimed'
            WHEN OLD.state = 'processing' AND NEW.state <> 'processing' THEN 'left'
            WHEN NEW.indexed > OLD.indexed THEN 'advanced'
        END;
        IF v_kind IS NULL THEN
            RETURN NULL;
        END IF;
        INSERT INTO event (kind, project_id, document_id, version, epoch, owner)
        VALUES (v_kind, NEW.project_id, NEW.document_id, NEW.version, NEW.lease_epoch,
                NEW.lease_owner);
        IF v_kind IN ('advanced', 'left') AND NEW.state <> 'queued' AND NEW.lease_epoch <> (
            SELECT d.lease_epoch FROM ingestion.document d WHERE d.document_id = NEW.document_id
        ) THEN
            INSERT INTO event (kind, project_id, document_id, version, epoch)
            VALUES ('stale', NEW.project_id, NEW.document_id, NEW.version, NEW.lease_epoch);
        END IF;
        IF NEW.state = 'ready' THEN
            INSERT INTO event (kind, project_id, document_id, version)
            VALUES ('ready', NEW.project_id, NEW.document_id, NEW.version);
        END IF;
        RETURN NULL;
    END $body$;
    CREATE TRIGGER chaos_given BEFORE INSERT ON retrieval.document
        FOR EACH ROW EXECUTE FUNCTION chaos.given();
    CREATE TRIGGER chaos_held AFTER INSERT OR UPDATE ON retrieval.document
        FOR EACH ROW EXECUTE FUNCTION chaos.held();
    CREATE TRIGGER chaos_worked AFTER UPDATE ON ingestion.document_version
        FOR EACH ROW EXECUTE FUNCTION chaos.worked();
"""

UNWATCH = "DROP SCHEMA IF EXISTS chaos CASCADE"
"""The triggers go with their functions."""

FENCED_WRITES = """
    SELECT g.document_id, g.epoch AS given, h.epoch AS held, g.at::text
    FROM chaos.event g JOIN chaos.event h USING (tx, document_id)
    WHERE g.project_id = $1 AND g.kind = 'given' AND h.kind = 'held' AND g.epoch < h.epoch
    UNION ALL
    SELECT document_id, epoch, NULL, at::text FROM chaos.event
    WHERE project_id = $1 AND kind = 'stale'
"""
STORY = """
    SELECT string_agg(format('%s v%s e%s %s', kind, version, epoch, to_char(at, 'MI:SS.MS')), ', '
                      ORDER BY seq)
    FROM chaos.event WHERE document_id = $1
"""
TWICE = """
    SELECT count(*) FROM (
        SELECT FROM chaos.event WHERE project_id = $1 AND kind = ANY ('{activated,ready}')
          AND version IS NOT NULL
        GROUP BY kind, document_id, version HAVING count(*) > 1) AS twice
"""
LEASES_LEFT = """
    SELECT count(*) FROM ingestion.document_version
    WHERE project_id = $1 AND (state = 'processing' OR lease_owner <> ''
                               OR lease_expires IS NOT NULL)
"""
UNFINISHED = """
    SELECT (SELECT count(*) FROM retrieval.lexical_outbox WHERE project_id = $1)
         + (SELECT count(*) FROM retrieval.retired_version WHERE project_id = $1)
         + (SELECT count(*) FROM ingestion.document
            WHERE project_id = $1 AND removing_since IS NOT NULL)
"""
SAME_CONTENT = """
    SELECT count(*) FROM (
        SELECT FROM ingestion.document d
        JOIN ingestion.document_version v
          ON v.document_id = d.document_id AND v.version = d.latest_version
        WHERE d.project_id = $1 GROUP BY v.sha256, v.allow HAVING count(*) > 1) AS same
"""
UNEQUAL = """
    SELECT d.document_id, v.chunk_count AS announced, r.live_chunks AS live,
           (SELECT count(*) FROM retrieval.chunk c WHERE c.project_id = $1
            AND c.document_id = d.document_id AND c.version = r.live_version) AS stored,
           (SELECT count(DISTINCT c.ordinal) FILTER (WHERE c.ordinal < r.live_chunks)
            FROM retrieval.chunk c WHERE c.project_id = $1
            AND c.document_id = d.document_id AND c.version = r.live_version) AS ordinals,
           (SELECT count(*) FROM retrieval.{dense} e WHERE e.project_id = $1
            AND e.document_id = d.document_id AND e.version = r.live_version) AS vectors,
           d.live_version = r.live_version AS same_version
    FROM ingestion.document d
    JOIN ingestion.document_version v
      ON v.document_id = d.document_id AND v.version = d.live_version
    LEFT JOIN retrieval.document r ON r.project_id = $1 AND r.document_id = d.document_id
    WHERE d.project_id = $1 AND d.live_version > 0
"""
LEFT_BEHIND = """
    SELECT count(*) FROM retrieval.chunk c WHERE c.project_id = $1 AND NOT EXISTS (
        SELECT FROM retrieval.document r WHERE r.project_id = $1
          AND r.document_id = c.document_id AND r.live_version = c.version)
"""
RECOVERED = """
    WITH held AS (
        SELECT DISTINCT ON (document_id, version) document_id, version, kind, owner
        FROM chaos.event
        WHERE kind = ANY ('{claimed,left}') AND at < $1
        ORDER BY document_id, version, seq DESC)
    SELECT h.document_id, (
        SELECT min(e.at) FROM chaos.event e WHERE e.document_id = h.document_id AND e.at > $1
          AND e.kind = ANY ('{claimed,left}')) AS again
    FROM held h WHERE h.kind = 'claimed' AND h.owner LIKE '%/' || $2
"""
LAST_WORDS_SECONDS = 0.3
"""What Postgres was told before a kill may be committed for so long after it."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What Postgres says of one project."""

    fenced_writes: int
    ready_twice: int
    leases_left: int
    unfinished: int
    same_content: int
    unequal: int
    left_behind: int
    """Chunks of versions that are not live."""
    examples: list[str]


async def watch(connection: asyncpg.Connection[Any]) -> None:
    """Installs the triggers; needs the superuser."""
    await connection.execute(WATCH)


async def unwatch(connection: asyncpg.Connection[Any]) -> None:
    """Takes the triggers away."""
    await connection.execute(UNWATCH)


async def unfinished(connection: asyncpg.Connection[Any], project: str) -> int:
    """Work of a project that is still under way in the background."""
    leases = await connection.fetchval(LEASES_LEFT, project)
    return int(leases + await connection.fetchval(UNFINISHED, project))


async def audit(connection: asyncpg.Connection[Any], project: str) -> Audit:
    """Looks at everything of a project."""
    numbers = await connection.fetch("SELECT number FROM retrieval.space_table")
    dense = f"dense_{numbers[0]['number']:d}"
    rows = await connection.fetch(UNEQUAL.format(dense=dense), project)
    unequal = [dict(row) for row in rows if not _equal(row)]
    fenced = await connection.fetch(FENCED_WRITES, project)
    stories = [
        f"{dict(row)}: {await connection.fetchval(STORY, row['document_id'])}" for row in fenced[:3]
    ]
    return Audit(
        fenced_writes=len(fenced),
        ready_twice=await connection.fetchval(TWICE, project),
        leases_left=await connection.fetchval(LEASES_LEFT, project),
        unfinished=await connection.fetchval(UNFINISHED, project),
        same_content=await connection.fetchval(SAME_CONTENT, project),
        unequal=len(unequal),
        left_behind=await connection.fetchval(LEFT_BEHIND, project),
        examples=[f"counts differ: {json.dumps(row)}" for row in unequal[:5]]
        + [f"written without the lease: {story}" for story in stories],
    )


def _equal(row: Any) -> bool:
    counts = {row[name] for name in ("announced", "live", "stored", "ordinals", "vectors")}
    return bool(row["same_version"]) and len(counts) == 1


async def recoveries(connection: asyncpg.Connection[Any], faults: list[Fault]) -> list[float]:
    """Seconds until a document whose worker was killed was taken up again.

    A recovery that another fault fell into is that fault's doing and not counted.
    """
    found = []
    for fault in faults:
        if fault.victim not in WORKERS or fault.kind is not Kind.KILL:
            continue
        later = [other.began for other in faults if other.began > fault.began]
        undisturbed = min(later, default=float("inf"))
        dead = fault.began + LAST_WORDS_SECONDS
        rows = await connection.fetch(
            RECOVERED.replace("$1", f"to_timestamp({dead!r})").replace("$2", f"'{fault.port:d}'")
        )
        for row in rows:
            if row["again"] is None:
                continue
            again = row["again"].timestamp()
            if again <= undisturbed:
                found.append(again - fault.began)
    return found
