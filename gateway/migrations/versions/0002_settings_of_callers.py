"""A key is found together with the settings of its project.

Beside `find_key`, which processes of the release before still call during an upgrade.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE FUNCTION gateway.find_caller(p_hash bytea)
    RETURNS TABLE (
        key_id text, project_id text, scopes text[], principals text[],
        revoked boolean, expired boolean, project_deleted boolean, expires_at timestamptz,
        settings jsonb
    )
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = gateway, pg_temp
    AS $$
        SELECT k.id, k.project_id, k.scopes, k.principals,
               k.revoked_at IS NOT NULL,
               k.expires_at IS NOT NULL AND k.expires_at <= now(),
               p.deleted_at IS NOT NULL,
               k.expires_at,
               p.settings
        FROM gateway.api_key k JOIN gateway.project p ON p.id = k.project_id
        WHERE k.hash = p_hash
    $$
    """,
    "REVOKE EXECUTE ON FUNCTION gateway.find_caller(bytea) FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION gateway.find_caller(bytea) TO citemesh_gateway",
)


def upgrade() -> None:
    """Create the function."""
    for statement in STATEMENTS:
        op.execute(statement)
