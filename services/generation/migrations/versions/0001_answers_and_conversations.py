"""The exact answer cache, conversations with their turns, answers and what users thought of them.

Every table has row-level security FORCEd: the runtime role sees the project of the transaction's
setting `citemesh.project_id` and nothing without one. `sweep` is the one function that crosses
projects; it only forgets.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    # `key` is a digest of everything the answer depends on (services/generation/cache_key.py);
    # `corpus_epoch` lets answers over an older corpus be removed.
    """
    CREATE TABLE generation.answer_cache (
        project_id   text NOT NULL,
        key          bytea NOT NULL,
        corpus_epoch bigint NOT NULL,
        payload      jsonb NOT NULL,
        expires_at   timestamptz NOT NULL,
        PRIMARY KEY (project_id, key)
    )
    """,
    "CREATE INDEX ON generation.answer_cache (expires_at)",
    # A conversation belongs to who began it: the same id used by others in the project is another
    # conversation, or a follow-up would tell what its reader may not see.
    """
    CREATE TABLE generation.conversation (
        project_id      text NOT NULL,
        conversation_id text NOT NULL,
        owner           text NOT NULL,
        turns           integer NOT NULL DEFAULT 0,
        updated_at      timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (project_id, conversation_id, owner)
    )
    """,
    "CREATE INDEX ON generation.conversation (updated_at)",
    """
    CREATE TABLE generation.turn (
        project_id      text NOT NULL,
        conversation_id text NOT NULL,
        owner           text NOT NULL,
        number          integer NOT NULL,
        question        text NOT NULL,
        searched        text NOT NULL,
        answer          text NOT NULL,
        created_at      timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (project_id, conversation_id, owner, number),
        FOREIGN KEY (project_id, conversation_id, owner)
            REFERENCES generation.conversation ON DELETE CASCADE
    )
    """,
    # What feedback refers to. Neither question nor text: those belong to a conversation.
    """
    CREATE TABLE generation.answer (
        project_id      text NOT NULL,
        answer_id       text NOT NULL,
        conversation_id text NOT NULL DEFAULT '',
        subject         text NOT NULL,
        provider        text NOT NULL,
        model           text NOT NULL,
        confidence      text NOT NULL,
        cache           text NOT NULL,
        created_at      timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (project_id, answer_id)
    )
    """,
    "CREATE INDEX ON generation.answer (created_at)",
    """
    CREATE TABLE generation.feedback (
        project_id text NOT NULL,
        request_id text NOT NULL,
        answer_id  text NOT NULL,
        subject    text NOT NULL,
        rating     smallint NOT NULL CHECK (rating BETWEEN -1 AND 1),
        comment    text NOT NULL DEFAULT '',
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (project_id, request_id),
        FOREIGN KEY (project_id, answer_id) REFERENCES generation.answer ON DELETE CASCADE
    )
    """,
    "CREATE INDEX ON generation.feedback (project_id, answer_id)",
)
PROJECT_TABLES = ("answer_cache", "conversation", "turn", "answer", "feedback")

SWEEP = (
    """
    CREATE FUNCTION generation.sweep(p_keep interval) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = generation, pg_temp AS $$
    DECLARE
        removed bigint;
        total   bigint := 0;
    BEGIN
        DELETE FROM answer_cache WHERE expires_at < now();
        GET DIAGNOSTICS removed = ROW_COUNT;
        total := total + removed;
        DELETE FROM conversation WHERE updated_at < now() - p_keep;
        GET DIAGNOSTICS removed = ROW_COUNT;
        total := total + removed;
        DELETE FROM answer WHERE created_at < now() - p_keep;
        GET DIAGNOSTICS removed = ROW_COUNT;
        RETURN total + removed;
    END
    $$
    """,
    "REVOKE ALL ON FUNCTION generation.sweep(interval) FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION generation.sweep(interval) TO citemesh_generation",
)


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)
    for table in PROJECT_TABLES:
        op.execute(f"ALTER TABLE generation.{table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE generation.{table} FORCE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY one_project ON generation.{table} TO citemesh_generation"
            " USING (project_id = current_setting('citemesh.project_id', true))"
            " WITH CHECK (project_id = current_setting('citemesh.project_id', true))"
        )
        op.execute(
            f"CREATE POLICY owner ON generation.{table} TO citemesh_generation_owner"
            " USING (true) WITH CHECK (true)"
        )
        op.execute(
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON generation.{table} TO citemesh_generation"
        )
    for statement in SWEEP:
        op.execute(statement)
