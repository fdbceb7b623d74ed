"""Documents, their versions, which are the queue at the same time, and applied requests.

Every table has row-level security FORCEd. What works across projects (claiming,
sweeping) goes through narrow functions that run as the schema's owner.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE ingestion.document (
        document_id    text PRIMARY KEY,
        project_id     text NOT NULL,
        latest_version bigint NOT NULL,
        live_version   bigint NOT NULL DEFAULT 0,
        -- Grows with every claim and with a removal, never shrinks: the fence.
        lease_epoch    bigint NOT NULL DEFAULT 0,
        -- Set when a removal has begun; the row goes when retrieval has committed it.
        removing_since timestamptz,
        created_at     timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX document_by_age ON ingestion.document (project_id, created_at, document_id)",
    """
    CREATE INDEX document_removing ON ingestion.document (removing_since)
    WHERE removing_since IS NOT NULL
    """,
    # One row a version; while `queued` or `processing` it is the job.
    """
    CREATE TABLE ingestion.document_version (
        document_id   text NOT NULL REFERENCES ingestion.document ON DELETE CASCADE,
        version       bigint NOT NULL,
        project_id    text NOT NULL,
        state         text NOT NULL DEFAULT 'queued' CHECK (state IN (
            'queued', 'processing', 'ready', 'failed', 'quarantined', 'superseded')),
        stage         text NOT NULL DEFAULT '',
        done          bigint NOT NULL DEFAULT 0,
        total         bigint NOT NULL DEFAULT 0,
        error_reason  text NOT NULL DEFAULT '',
        error_detail  text NOT NULL DEFAULT '',
        warnings      text[] NOT NULL DEFAULT '{}',
        -- What the caller said.
        file_name     text NOT NULL,
        given_title   text NOT NULL,
        labels        jsonb NOT NULL,
        allow         text[] NOT NULL,
        -- The source file.
        blob_key      text NOT NULL,
        media_type    text NOT NULL,
        size_bytes    bigint NOT NULL,
        sha256        text NOT NULL,
        -- What reading it found.
        title         text NOT NULL,
        page_count    integer NOT NULL DEFAULT 0,
        chunk_count   bigint NOT NULL DEFAULT 0,
        -- Fingerprint of the cuts and the space of the vectors: work is resumed
        -- only when both are still the same.
        plan_digest   text NOT NULL DEFAULT '',
        space         text NOT NULL DEFAULT '',
        -- Chunks, from the first on, that retrieval has acknowledged.
        indexed       bigint NOT NULL DEFAULT 0,
        -- The lease. `now()` of this database alone decides whether it holds.
        lease_owner   text NOT NULL DEFAULT '',
        lease_expires timestamptz,
        lease_epoch   bigint NOT NULL DEFAULT 0,
        starts_without_progress integer NOT NULL DEFAULT 0,
        not_before    timestamptz NOT NULL DEFAULT now(),
        queued_at     timestamptz NOT NULL DEFAULT now(),
        -- Whose work it is: the worker acts for them, whenever it comes to it.
        subject       text NOT NULL,
        principals    text[] NOT NULL,
        request_id    text NOT NULL,
        trace_parent  text NOT NULL DEFAULT '',
        created_at    timestamptz NOT NULL DEFAULT now(),
        updated_at    timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (document_id, version)
    )
    """,
    """
    CREATE INDEX document_version_waiting
    ON ingestion.document_version (project_id, queued_at, document_id, version)
    WHERE state IN ('queued', 'processing')
    """,
    """
    CREATE INDEX document_version_by_content
    ON ingestion.document_version (project_id, sha256)
    """,
    "CREATE INDEX document_version_by_blob ON ingestion.document_version (blob_key)",
    # When a project's work was last claimed: projects take turns.
    """
    CREATE TABLE ingestion.project_turn (
        project_id text PRIMARY KEY,
        claimed_at timestamptz NOT NULL
    )
    """,
    # What a request did, for as long as it may be repeated.
    """
    CREATE TABLE ingestion.applied_request (
        project_id  text NOT NULL,
        subject     text NOT NULL,
        request_id  text NOT NULL,
        method      text NOT NULL,
        -- Of what was asked: the same id with another one is a mistake.
        fingerprint text NOT NULL,
        document_id text NOT NULL,
        applied_at  timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (project_id, subject, request_id)
    )
    """,
    "CREATE INDEX applied_request_by_age ON ingestion.applied_request (applied_at)",
)

PROTECTED = ("document", "document_version", "project_turn", "applied_request")

DEFINER = "SECURITY DEFINER SET search_path = ingestion, pg_temp"

# The next job for a worker, leased to it; no row when there is none. Projects take
# turns; within one the oldest comes first. Whoever writes versions of a document
# locks the document's row first, so that claim, removal and completion never wait
# for each other in a circle.
CLAIM = f"""
    CREATE FUNCTION ingestion.claim(p_owner text, p_lease interval, p_most_starts integer)
    RETURNS SETOF ingestion.document_version LANGUAGE plpgsql {DEFINER} AS $body$
    DECLARE
        v_project  text;
        v_document text;
        v_version  bigint;
        v_epoch    bigint;
        v_claimed  document_version;
    BEGIN
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
            WHERE w.project_id IS NOT NULL
            ORDER BY t.claimed_at NULLS FIRST, w.project_id
        LOOP
            LOOP
                SELECT v.document_id, v.version INTO v_document, v_version
                FROM document_version v JOIN document d ON d.document_id = v.document_id
                WHERE v.project_id = v_project
                  AND (v.state = 'queued' AND v.not_before <= now()
                       OR v.state = 'processing' AND v.lease_expires < now())
                  AND d.removing_since IS NULL
                  -- Versions of one document are processed one after the other.
                  AND NOT EXISTS (
                      SELECT FROM document_version o
                      WHERE o.document_id = v.document_id AND o.version <> v.version
                        AND o.state = 'processing' AND o.lease_expires >= now())
                ORDER BY v.queued_at, v.document_id, v.version
                LIMIT 1 FOR UPDATE OF d SKIP LOCKED;
                EXIT WHEN NOT FOUND;

                UPDATE document_version v
                SET state = 'failed', stage = '', lease_owner = '', lease_expires = NULL,
                    error_reason = 'NO_PROGRESS', updated_at = now(),
                    error_detail = 'Processing was started ' || v.starts_without_progress ||
                        ' times and never got further; the file may be more than the service'
                        ' can bear. Reprocess it, or split it into parts.'
                WHERE v.document_id = v_document AND v.version = v_version
                  AND v.state IN ('queued', 'processing')
                  AND v.starts_without_progress >= p_most_starts;
                CONTINUE WHEN FOUND;

                UPDATE document d SET lease_epoch = d.lease_epoch + 1
                WHERE d.document_id = v_document RETURNING d.lease_epoch INTO v_epoch;
                UPDATE document_version v
                SET state = 'processing', lease_owner = p_owner, lease_epoch = v_epoch,
                    lease_expires = now() + p_lease, updated_at = now(),
                    starts_without_progress = v.starts_without_progress + 1
                WHERE v.document_id = v_document AND v.version = v_version
                  AND (v.state = 'queued' AND v.not_before <= now()
                       OR v.state = 'processing' AND v.lease_expires < now())
                RETURNING v.* INTO v_claimed;
                -- Another worker may have claimed it before its row was locked here.
                CONTINUE WHEN NOT FOUND;
                INSERT INTO project_turn AS t VALUES (v_project, clock_timestamp())
                ON CONFLICT (project_id) DO UPDATE SET claimed_at = excluded.claimed_at;
                RETURN NEXT v_claimed;
                RETURN;
            END LOOP;
        END LOOP;
    END
    $body$
"""  # noqa: S608

# Removals that were begun and not finished, the oldest first.
REMOVALS = f"""
    CREATE FUNCTION ingestion.removals(p_older interval, p_limit integer)
    RETURNS TABLE (project_id text, document_id text)
    LANGUAGE sql {DEFINER} AS $body$
        SELECT d.project_id, d.document_id FROM document d
        WHERE d.removing_since < now() - p_older
        ORDER BY d.removing_since LIMIT p_limit
    $body$
"""  # noqa: S608

# Those of the keys that no version has: files whose upload never got its row.
ORPHANED_BLOBS = f"""
    CREATE FUNCTION ingestion.orphaned_blobs(p_keys text[]) RETURNS SETOF text
    LANGUAGE sql {DEFINER} AS $body$
        SELECT k.key FROM unnest(p_keys) AS k (key)
        WHERE NOT EXISTS (SELECT FROM document_version v WHERE v.blob_key = k.key)
    $body$
"""  # noqa: S608

FORGET_REQUESTS = f"""
    CREATE FUNCTION ingestion.forget_requests(p_age interval) RETURNS bigint
    LANGUAGE sql {DEFINER} AS $body$
        WITH gone AS (
            DELETE FROM applied_request a WHERE a.applied_at < now() - p_age RETURNING 1
        )
        SELECT count(*) FROM gone
    $body$
"""  # noqa: S608

# What waits and what is worked on, for metrics and `citemesh status`.
BACKLOG = f"""
    CREATE FUNCTION ingestion.backlog()
    RETURNS TABLE (queued bigint, processing bigint, oldest_seconds double precision)
    LANGUAGE sql {DEFINER} AS $body$
        SELECT count(*) FILTER (WHERE v.state = 'queued'),
               count(*) FILTER (WHERE v.state = 'processing'),
               coalesce(extract(epoch FROM now() - min(v.queued_at)), 0)
        FROM document_version v WHERE v.state IN ('queued', 'processing')
    $body$
"""  # noqa: S608

DEFINERS = {
    "claim(text, interval, integer)": CLAIM,
    "removals(interval, integer)": REMOVALS,
    "orphaned_blobs(text[])": ORPHANED_BLOBS,
    "forget_requests(interval)": FORGET_REQUESTS,
    "backlog()": BACKLOG,
}


def upgrade() -> None:
    """Create tables, policies and functions."""
    for statement in TABLES:
        op.execute(statement)
    for table in PROTECTED:
        name = f"ingestion.{table}"
        op.execute(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY one_project ON {name} TO citemesh_ingestion"
            " USING (project_id = current_setting('citemesh.project_id', true))"
            " WITH CHECK (project_id = current_setting('citemesh.project_id', true))"
        )
        op.execute(
            f"CREATE POLICY owner_functions ON {name} TO citemesh_ingestion_owner"
            " USING (true) WITH CHECK (true)"
        )
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO citemesh_ingestion")
    for signature, statement in DEFINERS.items():
        op.execute(statement)
        op.execute(f"REVOKE ALL ON FUNCTION ingestion.{signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION ingestion.{signature} TO citemesh_ingestion")
