"""Batches are kept in any order, and a spare hand serves projects that have none.

`kept` says which chunks retrieval has acknowledged; `indexed` goes on to say how many. A
process of the release before takes `indexed` for a prefix: at worst retrieval tells it at the
activation that chunks are missing, and it writes all of them again.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEPT = (
    "ALTER TABLE ingestion.document_version ADD kept int8multirange NOT NULL DEFAULT '{}'",
    """
    UPDATE ingestion.document_version SET kept = int8multirange(int8range(0, indexed))
    WHERE indexed > 0 AND state IN ('queued', 'processing')
    """,
)

# Ends the chosen version, which has had its starts, or leases it; no row when it did not.
# The document's row is locked by whoever calls.
TAKE = """
    CREATE FUNCTION ingestion.take(
        p_document text, p_version bigint, p_owner text, p_lease interval, p_most_starts integer
    )
    RETURNS SETOF ingestion.document_version LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = ingestion, pg_temp AS $body$
    DECLARE
        v_epoch bigint;
    BEGIN
        UPDATE document_version v
        SET state = 'failed', stage = '', lease_owner = '', lease_expires = NULL,
            error_reason = 'NO_PROGRESS', updated_at = now(),
            error_detail = 'Processing was started ' || v.starts_without_progress ||
                ' times and never got further; the file may be more than the service'
                ' can bear. Reprocess it, or split it into parts.'
        WHERE v.document_id = p_document AND v.version = p_version
          AND v.state IN ('queued', 'processing')
          AND v.starts_without_progress >= p_most_starts;
        IF FOUND THEN
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
              AND (v.state = 'queued' AND v.not_before <= now()
                   OR v.state = 'processing' AND v.lease_expires < now())
            RETURNING v.*;
    END
    $body$
"""

# The next job for a worker, leased to it; no row when there is none. What a dead worker left
# comes first: it had its turn. Otherwise projects take turns, but for those of `p_without`;
# within one the oldest comes first. Whoever writes versions of a document locks the document's
# row first, so that claim, removal and completion never wait for each other in a circle.
CLAIM = """
    CREATE FUNCTION ingestion.claim(
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
            WHERE v.state = 'processing' AND v.lease_expires < now()
              AND v.project_id <> ALL (p_without) AND d.removing_since IS NULL
              AND NOT EXISTS (
                  SELECT FROM document_version o
                  WHERE o.document_id = v.document_id AND o.version <> v.version
                    AND o.state = 'processing' AND o.lease_expires >= now())
            ORDER BY v.lease_expires, v.version LIMIT 1 FOR UPDATE OF d SKIP LOCKED;
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
            ORDER BY t.claimed_at NULLS FIRST, w.project_id
        LOOP
            LOOP
                SELECT v.document_id, v.version INTO v_document, v_version
                FROM document_version v JOIN document d ON d.document_id = v.document_id
                WHERE v.project_id = v_project AND v.state = 'queued' AND v.not_before <= now()
                  AND d.removing_since IS NULL
                  -- Versions of one document are processed one after the other.
                  AND NOT EXISTS (
                      SELECT FROM document_version o
                      WHERE o.document_id = v.document_id AND o.version <> v.version
                        AND o.state = 'processing')
                ORDER BY v.queued_at, v.document_id, v.version
                LIMIT 1 FOR UPDATE OF d SKIP LOCKED;
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

# A process that starts where another one was knows that its leases are held by nobody.
EXPIRE = """
    CREATE FUNCTION ingestion.expire(p_owner text) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = ingestion, pg_temp AS $body$
        WITH ended AS (
            UPDATE document_version v SET lease_expires = now() - interval '1 second'
            WHERE v.state = 'processing' AND v.lease_owner = p_owner AND v.lease_expires >= now()
            RETURNING 1)
        SELECT count(*) FROM ended
    $body$
"""

# When watched documents last changed: ids and times, whatever project they are of.
CHANGED = """
    CREATE FUNCTION ingestion.last_changes(p_documents text[])
    RETURNS TABLE (document_id text, changed_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ingestion, pg_temp AS $body$
        SELECT d.document_id, greatest(d.removing_since, max(v.updated_at))
        FROM document d JOIN document_version v ON v.document_id = d.document_id
        WHERE d.document_id = ANY (p_documents) GROUP BY d.document_id
    $body$
"""

LEASED = """
    CREATE INDEX document_version_leased ON ingestion.document_version (document_id)
    WHERE state = 'processing'
"""

DEFINERS = {
    "take(text, bigint, text, interval, integer)": TAKE,
    "claim(text, interval, integer, text[])": CLAIM,
    "expire(text)": EXPIRE,
    "last_changes(text[])": CHANGED,
}


def upgrade() -> None:
    """Add the column and the functions."""
    for statement in (*KEPT, LEASED):
        op.execute(statement)
    for signature, statement in DEFINERS.items():
        op.execute(statement)
        op.execute(f"REVOKE ALL ON FUNCTION ingestion.{signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION ingestion.{signature} TO citemesh_ingestion")
