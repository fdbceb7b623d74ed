"""A quarantined version does not keep its file: what the worker could not remove is swept."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ORPHANED_BLOBS = """
    CREATE OR REPLACE FUNCTION ingestion.orphaned_blobs(p_keys text[]) RETURNS SETOF text
    LANGUAGE sql SECURITY DEFINER SET search_path = ingestion, pg_temp AS $body$
        SELECT k.key FROM unnest(p_keys) AS k (key)
        WHERE NOT EXISTS (SELECT FROM document_version v WHERE v.blob_key = k.key)
           OR EXISTS (SELECT FROM document_version v
                      WHERE v.blob_key = k.key AND v.state = 'quarantined')
    $body$
"""


def upgrade() -> None:
    """Replace the function, which keeps its grants."""
    op.execute(ORPHANED_BLOBS)
