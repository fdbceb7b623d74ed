"""Documents with their live pointer, chunks, the registry of dense tables and the outbox.

Every table that holds project rows has row-level security FORCEd: the runtime
role sees the project of the transaction's setting `citemesh.project_id` and
nothing without one. Work across projects goes through the functions of 0003.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    # One row a document for as long as anything of it may still arrive: a removed
    # document stays as a tombstone that refuses late writes.
    """
    CREATE TABLE retrieval.document (
        project_id   text NOT NULL,
        document_id  text NOT NULL,
        live_version bigint,
        removed_at   timestamptz,
        lease_epoch  bigint NOT NULL,
        title        text NOT NULL DEFAULT '',
        labels       jsonb NOT NULL DEFAULT '{}',
        allow        text[] NOT NULL DEFAULT '{}',
        media_type   text NOT NULL DEFAULT '',
        live_chunks  bigint NOT NULL DEFAULT 0,
        activated_at timestamptz,
        PRIMARY KEY (project_id, document_id)
    )
    """,
    # What a version will look like once it is live. Written by the first half of
    # an activation so that the lexical index can be filled before the pointer moves.
    """
    CREATE TABLE retrieval.document_version (
        project_id  text NOT NULL,
        document_id text NOT NULL,
        version     bigint NOT NULL,
        title       text NOT NULL,
        labels      jsonb NOT NULL,
        allow       text[] NOT NULL,
        media_type  text NOT NULL,
        staged_at   timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (project_id, document_id, version)
    )
    """,
    # `id` joins the indexes (a number is cheap to carry in both); the public id of
    # a chunk is `document_id.version.ordinal`.
    """
    CREATE TABLE retrieval.chunk (
        id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        project_id  text NOT NULL,
        document_id text NOT NULL,
        version     bigint NOT NULL,
        ordinal     integer NOT NULL,
        body        text NOT NULL,
        page        integer NOT NULL,
        page_end    integer NOT NULL,
        headings    text[] NOT NULL,
        span_start  bigint NOT NULL,
        span_end    bigint NOT NULL,
        section     text NOT NULL,
        token_count integer NOT NULL,
        language    text NOT NULL,
        flags       text[] NOT NULL,
        UNIQUE (project_id, document_id, version, ordinal)
    )
    """,
    # A few pages of a table that is read by key: leave texts of a chunk's usual
    # size uncompressed and in the row, so that a hit costs one page.
    "ALTER TABLE retrieval.chunk SET (toast_tuple_target = 4080)",
    "ALTER TABLE retrieval.chunk ALTER COLUMN body SET STORAGE MAIN",
    """
    CREATE TABLE retrieval.project_state (
        project_id   text PRIMARY KEY,
        corpus_epoch bigint NOT NULL DEFAULT 0,
        live_chunks  bigint NOT NULL DEFAULT 0
    )
    """,
    # Versions whose rows wait to be collected in small batches.
    """
    CREATE TABLE retrieval.retired_version (
        project_id  text NOT NULL,
        document_id text NOT NULL,
        version     bigint NOT NULL,
        retired_at  timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (project_id, document_id, version)
    )
    """,
    # Work for the lexical index. An entry says "make the index agree with Postgres
    # about this version", so replaying one changes nothing. Version 0 with an
    # empty document means the whole project.
    """
    CREATE TABLE retrieval.lexical_outbox (
        seq         bigserial PRIMARY KEY,
        project_id  text NOT NULL,
        document_id text NOT NULL,
        version     bigint NOT NULL,
        queued_at   timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE INDEX lexical_outbox_version
    ON retrieval.lexical_outbox (project_id, document_id, version)
    """,
    # Mutations already applied, by the caller's request id.
    """
    CREATE TABLE retrieval.applied_request (
        project_id text NOT NULL,
        request_id text NOT NULL,
        method     text NOT NULL,
        result     jsonb NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (project_id, request_id)
    )
    """,
    # Which dense table holds which embedding space. Not project data.
    """
    CREATE TABLE retrieval.space_table (
        number     integer PRIMARY KEY,
        space      text NOT NULL UNIQUE,
        dimensions integer NOT NULL CHECK (dimensions BETWEEN 1 AND 4000),
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    # The lexical index on disk must carry the same id, or it is built anew.
    """
    CREATE TABLE retrieval.lexical_generation (
        only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        generation uuid NOT NULL DEFAULT gen_random_uuid()
    )
    """,
    "INSERT INTO retrieval.lexical_generation DEFAULT VALUES",
)

PROJECT_TABLES = (
    "document",
    "document_version",
    "chunk",
    "project_state",
    "retired_version",
    "lexical_outbox",
    "applied_request",
)


def upgrade() -> None:
    """Create the tables, their policies and the runtime role's grants."""
    for statement in TABLES:
        op.execute(statement)
    for table in PROJECT_TABLES:
        op.execute(f"ALTER TABLE retrieval.{table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE retrieval.{table} FORCE ROW LEVEL SECURITY")
        # The sub-select makes the setting be read once a query, not once a row.
        op.execute(
            f"CREATE POLICY project_rows ON retrieval.{table} TO citemesh_retrieval "
            "USING (project_id = (SELECT current_setting('citemesh.project_id', true))) "
            "WITH CHECK (project_id = (SELECT current_setting('citemesh.project_id', true)))"
        )
        op.execute(
            f"CREATE POLICY every_row ON retrieval.{table} TO citemesh_retrieval_owner "
            "USING (true) WITH CHECK (true)"
        )
        op.execute(
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON retrieval.{table} TO citemesh_retrieval"
        )
    op.execute("GRANT USAGE ON SCHEMA retrieval TO citemesh_retrieval")
    op.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA retrieval TO citemesh_retrieval")
    op.execute(
        "GRANT SELECT ON retrieval.space_table, retrieval.lexical_generation TO citemesh_retrieval"
    )
