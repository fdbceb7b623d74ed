"""What was written while Postgres' clock was ahead does not wait until that hour has come.

A lease, a rest and a turn are times of Postgres' clock. When it was set ahead and back again, or
its successor's clock is behind, those written last lie in the future, and with them the moment
they were written: then they say nothing. A lease that still has its worker is renewed within a
second; where another one was faster, the first is fenced.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Of two transactions the one that began first may see what the other wrote, hence the seconds.
OF_THE_FUTURE = """
    CREATE FUNCTION ingestion.of_the_future(p_written timestamptz) RETURNS boolean
    LANGUAGE sql STABLE AS $body$ SELECT p_written > now() + interval '10 s' $body$
"""

DUE = """
    CREATE FUNCTION ingestion.due(p_not_before timestamptz, p_written timestamptz) RETURNS boolean
    LANGUAGE sql STABLE AS $body$
        SELECT p_not_before <= now() OR ingestion.of_the_future(p_written)
    $body$
"""

LAPSED = """
    CREATE FUNCTION ingestion.lapsed(p_expires timestamptz, p_written timestamptz) RETURNS boolean
    LANGUAGE sql STABLE AS $body$
        SELECT p_expires < now() OR ingestion.of_the_future(p_written)
    $body$
"""

TAKE = """
    CREATE OR REPLACE FUNCTION ingestion.take(
        p_document text, p_version bigint, p_owner text, p_lease interval, p_most_starts integer
    )
    RETURNS SETOF ingestion.document_version LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = ingestion, pg_temp AS $body$
    DECLARE
        v_starts integer;
        v_epoch  bigint;
    BEGIN
        -- Waits for a worker that writes the row just now, and sees what it wrote.
        SELECT v.starts_without_progress INTO v_starts FROM document_version v
        WHERE v.document_id = p_document AND v.version = p_version
          AND (v.state = 'queued' AND due(v.not_before, v.updated_at)
               OR v.state = 'processing' AND lapsed(v.lease_expires, v.updated_at))
        FOR UPDATE;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        IF v_starts >= p_most_starts THEN
            UPDATE document_version v
            SET state = 'failed', stage = '', lease_owner = '', lease_expires = NULL,
                error_reason = 'NO_PROGRESS', updated_at = now(),
                error_detail = 'Processing was started ' || v_starts ||
                    ' times and never got further; the file may be more than the service'
                    ' can bear. Reprocess it, or split it into parts.'
            WHERE v.document_id = p_document AND v.version = p_version;
            RETURN;
        END IF;
        UPDATE document d SET lease_epoch = d.lease_epoch + 1
        WHERE d.document_id = p_document RETURNING d.lease_epoch INTO v_epoch;
        RETURN QUERY
            UPDATE document_version v
            SET state = 'processing', lease_owner = p_owner, lease_epoch = v_epoch,
                lease_expires = now() + p_lease, updated_at = now(),
                starts_without_progress = v.starts_without_progress + 1
            WHERE v.document_id = p_document AND v.version = p_version
            RETURNING v.*;
    END
    $body$
"""

CLAIM = """
    CREATE OR REPLACE FUNCTION ingestion.claim(
        p_owner text, p_lease interval, p_most_starts integer, p_without text[]
    )
    RETURNS SETOF ingestion.document_version LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = ingestion, pg_temp AS $body$
    DECLARE
        v_project  text;
        v_document text;
        v_version  bigint;
    BEGIN
        LOOP
            SELECT v.document_id, v.version INTO v_document, v_version
            FROM document_version v JOIN document d ON d.document_id = v.document_id
            WHERE v.state = 'processing' AND lapsed(v.lease_expires, v.updated_at)
              AND v.project_id <> ALL (p_without) AND d.removing_since IS NULL
              AND NOT EXISTS (
                  SELECT FROM document_version o
                  WHERE o.document_id = v.document_id AND o.version <> v.version
                    AND o.state = 'processing' AND NOT lapsed(o.lease_expires, o.updated_at))
            ORDER BY v.lease_expires, v.version LIMIT 1 FOR UPDATE OF d, v SKIP LOCKED;
            EXIT WHEN NOT FOUND;
            RETURN QUERY SELECT * FROM take(v_document, v_version, p_owner, p_lease, p_most_starts);
            IF FOUND THEN
                RETURN;
            END IF;
        END LOOP;
        FOR v_project IN
            -- Distinct projects by skipping through the index: 10,000 files of one
            -- project cost as much as one.
            WITH RECURSIVE waiting AS (
                (SELECT v.project_id FROM document_version v
                 WHERE v.state IN ('queued', 'processing') ORDER BY v.project_id LIMIT 1)
                UNION ALL
                SELECT (SELECT v.project_id FROM document_version v
                        WHERE v.state IN ('queued', 'processing') AND v.project_id > w.project_id
                        ORDER BY v.project_id LIMIT 1)
                FROM waiting w WHERE w.project_id IS NOT NULL
            )
            SELECT w.project_id FROM waiting w LEFT JOIN project_turn t USING (project_id)
            WHERE w.project_id IS NOT NULL AND w.project_id <> ALL (p_without)
            ORDER BY CASE WHEN NOT of_the_future(t.claimed_at) THEN t.claimed_at END NULLS FIRST,
                w.project_id
        LOOP
            LOOP
                SELECT v.document_id, v.version INTO v_document, v_version
                FROM document_version v JOIN document d ON d.document_id = v.document_id
                WHERE v.project_id = v_project AND v.state = 'queued'
                  AND due(v.not_before, v.updated_at)
                  AND d.removing_since IS NULL
                  -- Versions of one document are processed one after the other.
                  AND NOT EXISTS (
                      SELECT FROM document_version o
                      WHERE o.document_id = v.document_id AND o.version <> v.version
                        AND o.state = 'processing')
                ORDER BY v.queued_at, v.document_id, v.version
                LIMIT 1 FOR UPDATE OF d, v SKIP LOCKED;
                EXIT WHEN NOT FOUND;
                RETURN QUERY
                    SELECT * FROM take(v_document, v_version, p_owner, p_lease, p_most_starts);
                -- Not when it failed for good, or another worker had claimed it before its
                -- document's row was locked here.
                CONTINUE WHEN NOT FOUND;
                INSERT INTO project_turn AS t VALUES (v_project, clock_timestamp())
                ON CONFLICT (project_id) DO UPDATE SET claimed_at = excluded.claimed_at;
                RETURN;
            END LOOP;
        END LOOP;
    END
    $body$
"""

# Removals that were begun and not finished, the oldest first.
REMOVALS = """
    CREATE OR REPLACE FUNCTION ingestion.removals(p_older interval, p_limit integer)
    RETURNS TABLE (project_id text, document_id text)
    LANGUAGE sql SECURITY DEFINER SET search_path = ingestion, pg_temp AS $body$
        SELECT d.project_id, d.document_id FROM document d
        WHERE d.removing_since < now() - p_older OR of_the_future(d.removing_since)
        ORDER BY d.removing_since LIMIT p_limit
    $body$
"""


def upgrade() -> None:
    """Add three predicates, which only the functions call, and have the functions call them."""
    for statement in (OF_THE_FUTURE, DUE, LAPSED, TAKE, CLAIM, REMOVALS):
        op.execute(statement)
