"""A claim waits for no row: what somebody is writing just now is left for the next look.

The claim of 0003 skipped documents that were locked and waited for versions that were. A worker
that froze while it wrote to a version kept every other one from claiming anything until Postgres
ended its transaction, ten seconds later.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# The next job for a worker, leased to it; no row when there is none. What a dead worker left
# comes first: it had its turn. Otherwise projects take turns, but for those of `p_without`;
# within one the oldest comes first. Whoever writes versions of a document locks the document's
# row first, so that claim, removal and completion never wait for each other in a circle.
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
            WHERE v.state = 'processing' AND v.lease_expires < now()
              AND v.project_id <> ALL (p_without) AND d.removing_since IS NULL
              AND NOT EXISTS (
                  SELECT FROM document_version o
                  WHERE o.document_id = v.document_id AND o.version <> v.version
                    AND o.state = 'processing' AND o.lease_expires >= now())
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


def upgrade() -> None:
    """Replace the function, which keeps its grants."""
    op.execute(CLAIM)
