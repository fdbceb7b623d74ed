"""What every answer asks of Postgres, in two round trips instead of sixteen.

Both functions see the rows of the project they are told, as a transaction of the service would;
neither is a definer.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

CACHED = """
    CREATE FUNCTION generation.cached(
        p_project text, p_key bytea, p_epoch bigint, p_forget boolean
    ) RETURNS jsonb LANGUAGE plpgsql AS $body$
    BEGIN
        PERFORM set_config('citemesh.project_id', p_project, true);
        IF p_forget THEN
            DELETE FROM generation.answer_cache c WHERE c.corpus_epoch < p_epoch;
        END IF;
        RETURN (
            SELECT c.payload FROM generation.answer_cache c
            WHERE c.key = p_key AND c.corpus_epoch = p_epoch AND c.expires_at > now()
        );
    END
    $body$
"""

# False, and nothing is kept, when the project was purged: nobody could purge it again. A purge
# holds the lock alone; whether there was one is seen after the lock, by a statement of its own.
REMEMBER = """
    CREATE FUNCTION generation.remember(
        p_project text, p_answer text, p_conversation text, p_subject text, p_provider text,
        p_model text, p_confidence text, p_cache text, p_owner text, p_question text,
        p_searched text, p_key bytea, p_epoch bigint, p_payload jsonb, p_lifetime interval,
        p_scope bytea, p_vector text, p_lock integer
    ) RETURNS boolean LANGUAGE plpgsql AS $body$
    DECLARE
        v_number integer;
    BEGIN
        PERFORM set_config('citemesh.project_id', p_project, true);
        PERFORM pg_advisory_xact_lock_shared(p_lock, hashtext(p_project));
        IF EXISTS (SELECT FROM generation.purged_project p WHERE p.project_id = p_project) THEN
            RETURN false;
        END IF;
        INSERT INTO generation.answer (
            project_id, answer_id, conversation_id, subject, provider, model, confidence, cache
        ) VALUES (
            p_project, p_answer, p_conversation, p_subject, p_provider, p_model, p_confidence,
            p_cache
        );
        IF p_conversation <> '' THEN
            INSERT INTO generation.conversation AS c (project_id, conversation_id, owner, turns)
            VALUES (p_project, p_conversation, p_owner, 1)
            ON CONFLICT (project_id, conversation_id, owner)
            DO UPDATE SET turns = c.turns + 1, updated_at = now()
            RETURNING c.turns INTO v_number;
            INSERT INTO generation.turn (
                project_id, conversation_id, owner, number, question, searched
            ) VALUES (p_project, p_conversation, p_owner, v_number, p_question, p_searched);
        END IF;
        IF p_key IS NOT NULL THEN
            INSERT INTO generation.answer_cache (
                project_id, key, corpus_epoch, payload, expires_at, scope, asked, vector
            ) VALUES (
                p_project, p_key, p_epoch, p_payload, now() + p_lifetime, p_scope,
                CASE WHEN p_scope IS NOT NULL THEN p_searched END, p_vector::public.vector
            )
            ON CONFLICT (project_id, key) DO UPDATE
            SET payload = excluded.payload, expires_at = excluded.expires_at,
                scope = excluded.scope, asked = excluded.asked, vector = excluded.vector;
        END IF;
        RETURN true;
    END
    $body$
"""


def upgrade() -> None:
    op.execute(CACHED)
    op.execute(REMEMBER)
