"""The look for a question's vector, in one round trip instead of four.

Not a definer: it sees the rows of the project it is told, as a transaction bound to it would.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

CACHED = """
    CREATE FUNCTION embedding.cached(
        p_project text, p_space text, p_task text, p_hashes bytea[]
    ) RETURNS TABLE (text_sha256 bytea, vector bytea) LANGUAGE plpgsql STABLE AS $body$
    #variable_conflict use_column
    BEGIN
        PERFORM set_config('citemesh.project_id', p_project, true);
        RETURN QUERY
            SELECT c.text_sha256, c.vector FROM embedding.vector_cache c
            WHERE c.project_id = p_project AND c.space = p_space AND c.task = p_task
              AND c.text_sha256 = ANY (p_hashes);
    END
    $body$
"""


def upgrade() -> None:
    """Adds the function."""
    op.execute(CACHED)
    op.execute("REVOKE EXECUTE ON FUNCTION embedding.cached(text, text, text, bytea[]) FROM PUBLIC")
    op.execute(
        "GRANT EXECUTE ON FUNCTION embedding.cached(text, text, text, bytea[])"
        " TO citemesh_embedding"
    )
