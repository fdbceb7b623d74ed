"""Projects, API keys, and the few functions that look past one project."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE gateway.project (
        id text PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 64),
        name text NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
        settings jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(settings) = 'object'),
        created_at timestamptz NOT NULL DEFAULT now(),
        -- Set when a purge begins: from then on no key of the project works. The
        -- row itself goes when every service has confirmed, so a purge that was
        -- interrupted can be asked for again.
        deleted_at timestamptz
    )
    """,
    "CREATE UNIQUE INDEX project_name ON gateway.project (name) WHERE deleted_at IS NULL",
    """
    CREATE TABLE gateway.api_key (
        id text PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 64),
        project_id text NOT NULL REFERENCES gateway.project (id) ON DELETE CASCADE,
        -- First characters of the secret, for people to recognise it by.
        prefix text NOT NULL CHECK (length(prefix) <= 16),
        -- SHA-256 of the whole key. A slow hash protects secrets that people
        -- choose; this one has 256 random bits, so there is nothing to guess and
        -- a fast hash can be looked up by index.
        hash bytea NOT NULL UNIQUE CHECK (length(hash) = 32),
        name text NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
        scopes text[] NOT NULL
            CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY['read', 'write', 'admin']),
        principals text[] NOT NULL DEFAULT '{}' CHECK (cardinality(principals) <= 256),
        created_at timestamptz NOT NULL DEFAULT now(),
        last_used_at timestamptz,
        revoked_at timestamptz,
        expires_at timestamptz
    )
    """,
    "CREATE INDEX api_key_project ON gateway.api_key (project_id, id)",
    "ALTER TABLE gateway.project ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE gateway.project FORCE ROW LEVEL SECURITY",
    "ALTER TABLE gateway.api_key ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE gateway.api_key FORCE ROW LEVEL SECURITY",
    """
    CREATE POLICY own_project ON gateway.project TO citemesh_gateway
        USING (id = current_setting('citemesh.project_id', true))
        WITH CHECK (id = current_setting('citemesh.project_id', true))
    """,
    """
    CREATE POLICY own_project ON gateway.api_key TO citemesh_gateway
        USING (project_id = current_setting('citemesh.project_id', true))
        WITH CHECK (project_id = current_setting('citemesh.project_id', true))
    """,
    # The owner is bound by FORCE as well; these let its functions below see all rows.
    "CREATE POLICY functions ON gateway.project TO citemesh_gateway_owner USING (true)",
    "CREATE POLICY functions ON gateway.api_key TO citemesh_gateway_owner USING (true)",
    """
    CREATE FUNCTION gateway.find_key(p_hash bytea)
    RETURNS TABLE (
        key_id text, project_id text, scopes text[], principals text[],
        revoked boolean, expired boolean, project_deleted boolean, expires_at timestamptz
    )
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = gateway, pg_temp
    AS $$
        SELECT k.id, k.project_id, k.scopes, k.principals,
               k.revoked_at IS NOT NULL,
               k.expires_at IS NOT NULL AND k.expires_at <= now(),
               p.deleted_at IS NOT NULL,
               k.expires_at
        FROM gateway.api_key k JOIN gateway.project p ON p.id = k.project_id
        WHERE k.hash = p_hash
    $$
    """,
    """
    CREATE FUNCTION gateway.touch_keys(p_ids text[]) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = gateway, pg_temp
    AS $$
        UPDATE gateway.api_key SET last_used_at = now() WHERE id = ANY (p_ids)
    $$
    """,
    # An administrator of the installation names a key by its id alone.
    """
    CREATE FUNCTION gateway.project_of_key(p_id text) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = gateway, pg_temp
    AS $$
        SELECT project_id FROM gateway.api_key WHERE id = p_id
    $$
    """,
    """
    CREATE FUNCTION gateway.list_projects(p_after text, p_limit integer)
    RETURNS TABLE (
        id text, name text, settings jsonb, created_at timestamptz, deleted_at timestamptz
    )
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = gateway, pg_temp
    AS $$
        SELECT p.id, p.name, p.settings, p.created_at, p.deleted_at
        FROM gateway.project p WHERE p.id > p_after ORDER BY p.id LIMIT p_limit
    $$
    """,
    """
    CREATE FUNCTION gateway.project_named(p_name text) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = gateway, pg_temp
    AS $$
        SELECT id FROM gateway.project WHERE name = p_name AND deleted_at IS NULL
    $$
    """,
    "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA gateway FROM PUBLIC",
    "GRANT USAGE ON SCHEMA gateway TO citemesh_gateway",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA gateway TO citemesh_gateway",
    "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA gateway TO citemesh_gateway",
)


def upgrade() -> None:
    """Creates the schema's tables, policies and functions."""
    for statement in STATEMENTS:
        op.execute(statement)
