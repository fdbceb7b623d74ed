"""The registry of spaces, and the cache of vectors that were paid for."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = (
    # Spaces belong to the installation, not to a project: no row security.
    """
    CREATE TABLE embedding.space (
        name text PRIMARY KEY CHECK (length(name) BETWEEN 5 AND 200),
        provider text NOT NULL,
        model text NOT NULL,
        dimensions integer NOT NULL CHECK (dimensions BETWEEN 1 AND 4000),
        normalized boolean NOT NULL,
        -- Fingerprint of weights, pooling and prefixes.
        version text NOT NULL CHECK (length(version) BETWEEN 1 AND 128),
        state text NOT NULL CHECK (state IN ('building', 'active', 'standby', 'retired')),
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    # Two active spaces cannot be written, whatever the code does.
    "CREATE UNIQUE INDEX one_active_space ON embedding.space (state) WHERE state = 'active'",
    """
    CREATE TABLE embedding.space_switch (
        request_id text PRIMARY KEY CHECK (length(request_id) BETWEEN 8 AND 128),
        name text NOT NULL REFERENCES embedding.space (name),
        previous text NOT NULL REFERENCES embedding.space (name),
        switched_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    # The text itself is not stored, only its hash.
    """
    CREATE TABLE embedding.vector_cache (
        project_id text NOT NULL,
        space text NOT NULL REFERENCES embedding.space (name),
        task text NOT NULL CHECK (task IN ('query', 'document')),
        text_sha256 bytea NOT NULL CHECK (length(text_sha256) = 32),
        vector bytea NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (project_id, space, task, text_sha256)
    )
    """,
    "CREATE INDEX vector_cache_age ON embedding.vector_cache (created_at)",
    # A replica may hold a vector it has not written yet when a project is purged.
    # For a while after a purge the table takes nothing of that project.
    """
    CREATE TABLE embedding.purge (
        project_id text PRIMARY KEY,
        purged_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "ALTER TABLE embedding.vector_cache ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE embedding.vector_cache FORCE ROW LEVEL SECURITY",
    "ALTER TABLE embedding.purge ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE embedding.purge FORCE ROW LEVEL SECURITY",
    """
    CREATE POLICY own_project ON embedding.vector_cache TO citemesh_embedding
        USING (project_id = current_setting('citemesh.project_id', true))
        WITH CHECK (project_id = current_setting('citemesh.project_id', true))
    """,
    """
    CREATE POLICY own_project ON embedding.purge TO citemesh_embedding
        USING (project_id = current_setting('citemesh.project_id', true))
        WITH CHECK (project_id = current_setting('citemesh.project_id', true))
    """,
    # The owner is bound by FORCE as well; these let its function below see all rows.
    "CREATE POLICY functions ON embedding.vector_cache TO citemesh_embedding_owner USING (true)",
    "CREATE POLICY functions ON embedding.purge TO citemesh_embedding_owner USING (true)",
    # Forgets what is old, a few thousand rows at a time; returns how many vectors.
    """
    CREATE FUNCTION embedding.sweep(p_age interval, p_purge_age interval, p_limit integer)
    RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = embedding, pg_temp
    AS $$
        DELETE FROM embedding.purge WHERE purged_at < now() - p_purge_age;
        WITH old AS (
            SELECT ctid FROM embedding.vector_cache
            WHERE created_at < now() - p_age ORDER BY created_at LIMIT p_limit
            FOR UPDATE SKIP LOCKED
        ), gone AS (
            DELETE FROM embedding.vector_cache c USING old WHERE c.ctid = old.ctid RETURNING 1
        )
        SELECT count(*) FROM gone
    $$
    """,
    "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA embedding FROM PUBLIC",
    "GRANT SELECT, INSERT, UPDATE ON embedding.space TO citemesh_embedding",
    "GRANT SELECT, INSERT ON embedding.space_switch TO citemesh_embedding",
    "GRANT SELECT, INSERT, DELETE ON embedding.vector_cache TO citemesh_embedding",
    "GRANT SELECT, INSERT, UPDATE ON embedding.purge TO citemesh_embedding",
    "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA embedding TO citemesh_embedding",
)


def upgrade() -> None:
    """Creates the schema's tables, policies and functions."""
    for statement in STATEMENTS:
        op.execute(statement)
