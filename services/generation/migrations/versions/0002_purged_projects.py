"""Ids of purged projects, so that an answer under way during a purge leaves nothing behind.

Kept for longer than any context or answer lasts, then forgotten. A turn no longer holds its
answer: nothing read it, and it quotes documents.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

CONTRACT = "no release had a turn's answer"

STATEMENTS = (
    "ALTER TABLE generation.turn DROP COLUMN answer",
    """
    CREATE TABLE generation.purged_project (
        project_id text PRIMARY KEY,
        purged_at  timestamptz NOT NULL DEFAULT now()
    )
    """,
    "ALTER TABLE generation.purged_project ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE generation.purged_project FORCE ROW LEVEL SECURITY",
    """
    CREATE POLICY one_project ON generation.purged_project TO citemesh_generation
        USING (project_id = current_setting('citemesh.project_id', true))
        WITH CHECK (project_id = current_setting('citemesh.project_id', true))
    """,
    """
    CREATE POLICY owner ON generation.purged_project TO citemesh_generation_owner
        USING (true) WITH CHECK (true)
    """,
    "GRANT SELECT, INSERT, UPDATE ON generation.purged_project TO citemesh_generation",
    """
    CREATE FUNCTION generation.forget_purged(p_age interval) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = generation, pg_temp AS $$
        DELETE FROM purged_project p WHERE p.purged_at < now() - p_age
    $$
    """,
    "REVOKE ALL ON FUNCTION generation.forget_purged(interval) FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION generation.forget_purged(interval) TO citemesh_generation",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
