"""A document's epoch grows only together with a lease.

`take` of 0003 raised it before it looked whether the version could still be claimed. A worker
that extended its lease at that moment went on under an epoch that was not the document's.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

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
          AND (v.state = 'queued' AND v.not_before <= now()
               OR v.state = 'processing' AND v.lease_expires < now())
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


def upgrade() -> None:
    """Replace the function, which keeps its grants."""
    op.execute(TAKE)
