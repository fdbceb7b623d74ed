"""Ids of purged projects, so that an upload under way during a purge leaves nothing behind.

Kept for longer than any context or upload lasts, then forgotten.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE ingestion.purged_project (
        project_id text PRIMARY KEY,
        purged_at  timestamptz NOT NULL DEFAULT now()
    )
    """,
    "ALTER TABLE ingestion.purged_project ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE ingestion.purged_project FORCE ROW LEVEL SECURITY",
    """
    CREATE POLICY one_project ON ingestion.purged_project TO citemesh_ingestion
        USING (project_id = current_setting('citemesh.project_id', true))
        WITH CHECK (project_id = current_setting('citemesh.project_id', true))
    """,
    """
    CREATE POLICY owner_functions ON ingestion.purged_project TO citemesh_ingestion_owner
        USING (true) WITH CHECK (true)
    """,
    "GRANT SELECT, INSERT, UPDATE ON ingestion.purged_project TO citemesh_ingestion",
    """
    CREATE FUNCTION ingestion.forget_purged(p_age interval) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = ingestion, pg_temp AS $body$
        DELETE FROM purged_project p WHERE p.purged_at < now() - p_age
    $body$
    """,
    "REVOKE ALL ON FUNCTION ingestion.forget_purged(interval) FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION ingestion.forget_purged(interval) TO citemesh_ingestion",
)


def upgrade() -> None:
    """Create the table, its policies and the function that forgets."""
    for statement in STATEMENTS:
        op.execute(statement)
