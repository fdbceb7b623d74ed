"""Which projects the lexical index must hold something of, for the reconciler."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# By skipping through the primary key: a project of a million versions costs as much as one.
INDEXED_PROJECTS = """
    CREATE FUNCTION retrieval.indexed_projects() RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = retrieval, pg_temp AS $body$
        WITH RECURSIVE found AS (
            (SELECT v.project_id FROM document_version v ORDER BY v.project_id LIMIT 1)
            UNION ALL
            SELECT (SELECT v.project_id FROM document_version v
                    WHERE v.project_id > f.project_id ORDER BY v.project_id LIMIT 1)
            FROM found f WHERE f.project_id IS NOT NULL
        )
        SELECT f.project_id FROM found f WHERE f.project_id IS NOT NULL
    $body$
"""


def upgrade() -> None:
    """Create the function; only the runtime role may execute it."""
    op.execute(INDEXED_PROJECTS)
    op.execute("REVOKE ALL ON FUNCTION retrieval.indexed_projects() FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION retrieval.indexed_projects() TO citemesh_retrieval")
