"""Several processes keep one lexical index: claims of the outbox, revisions, rebuilds.

An outbox entry is claimed by holding advisory locks for the length of the
transaction that applies it: shared ones of the switch and the project, an exclusive
one of the document; the purge of a project takes its lock alone. A process that
dies, or is frozen for longer than its transaction may be idle, loses them.

While an index is rebuilt, `outbox_done` copies what was applied to the journal, and
whoever rebuilds applies the journal to the new index before the switch.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

DEFINER = "SECURITY DEFINER SET search_path = retrieval, pg_temp"

TABLES = (
    # What an index refuses is tried again later, and does not hold up the rest.
    """
    ALTER TABLE retrieval.lexical_outbox
        ADD COLUMN attempts   integer NOT NULL DEFAULT 0,
        ADD COLUMN not_before timestamptz NOT NULL DEFAULT '-infinity'
    """,
    "CREATE SEQUENCE retrieval.lexical_revision",
    # The last rebuild. `beat_at` is renewed by whoever does it; nobody does it any
    # more when that is long ago.
    """
    CREATE TABLE retrieval.lexical_rebuild (
        only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        token       uuid NOT NULL,
        request_id  text NOT NULL,
        state       text NOT NULL CHECK (state IN ('running', 'switched', 'failed')),
        draft       text NOT NULL DEFAULT '',
        done        bigint NOT NULL DEFAULT 0,
        total       bigint NOT NULL DEFAULT 0,
        beat_at     timestamptz NOT NULL DEFAULT now()
    )
    """,
    # Read and written by the functions below alone.
    """
    CREATE TABLE retrieval.lexical_journal (
        seq         bigserial PRIMARY KEY,
        project_id  text NOT NULL,
        document_id text NOT NULL,
        version     bigint NOT NULL
    )
    """,
    "ALTER TABLE retrieval.lexical_journal ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE retrieval.lexical_journal FORCE ROW LEVEL SECURITY",
    """
    CREATE POLICY every_row ON retrieval.lexical_journal TO citemesh_retrieval_owner
    USING (true) WITH CHECK (true)
    """,
    "GRANT USAGE ON SEQUENCE retrieval.lexical_revision TO citemesh_retrieval",
    "GRANT SELECT, INSERT, UPDATE ON retrieval.lexical_rebuild TO citemesh_retrieval",
)

# First keys of the locks; advisory locks are of the whole database (deletion.py has one more).
SWITCH, PROJECT, DOCUMENT = 0x6C657831, 0x6C657832, 0x6C657833

# Entries that nobody else is working on, those of one document first. What was done
# between the look and the lock is not claimed again.
CLAIM = f"""
    CREATE FUNCTION retrieval.outbox_claim(p_limit integer, p_project text, p_document text)
    RETURNS TABLE (seq bigint, project_id text, document_id text, version bigint)
    LANGUAGE plpgsql {DEFINER} AS $body$
    #variable_conflict use_column
    DECLARE
        v_entry record;
        v_left  integer := p_limit;
    BEGIN
        -- The index may take longer to answer than a transaction may usually wait.
        PERFORM set_config('idle_in_transaction_session_timeout', '120s', true);
        IF NOT pg_try_advisory_xact_lock_shared({SWITCH}, 0) THEN
            RETURN;
        END IF;
        FOR v_entry IN
            (SELECT o.seq, o.project_id, o.document_id, o.version FROM lexical_outbox o
             WHERE o.project_id = p_project AND o.document_id = p_document
             ORDER BY o.seq LIMIT p_limit)
            UNION ALL
            (SELECT o.seq, o.project_id, o.document_id, o.version FROM lexical_outbox o
             WHERE o.not_before <= now()
               AND (o.project_id, o.document_id) IS DISTINCT FROM (p_project, p_document)
             ORDER BY o.seq LIMIT p_limit * 4)
        LOOP
            EXIT WHEN v_left = 0;
            IF v_entry.document_id = '' THEN
                CONTINUE WHEN NOT pg_try_advisory_xact_lock(
                    {PROJECT}, hashtext(v_entry.project_id));
            ELSE
                CONTINUE WHEN NOT pg_try_advisory_xact_lock_shared(
                    {PROJECT}, hashtext(v_entry.project_id));
                CONTINUE WHEN NOT pg_try_advisory_xact_lock(
                    {DOCUMENT}, hashtext(v_entry.project_id || ' ' || v_entry.document_id));
            END IF;
            CONTINUE WHEN NOT EXISTS (SELECT FROM lexical_outbox o WHERE o.seq = v_entry.seq);
            RETURN QUERY SELECT v_entry.seq, v_entry.project_id, v_entry.document_id,
                                v_entry.version;
            v_left := v_left - 1;
        END LOOP;
    END
    $body$
"""  # noqa: S608 - our own names

DONE = """
    CREATE OR REPLACE FUNCTION retrieval.outbox_done(p_seqs bigint[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = retrieval, pg_temp AS $body$
    BEGIN
        IF EXISTS (SELECT FROM lexical_rebuild r WHERE r.state = 'running') THEN
            INSERT INTO lexical_journal (project_id, document_id, version)
            SELECT DISTINCT o.project_id, o.document_id, o.version
            FROM lexical_outbox o WHERE o.seq = ANY (p_seqs);
        END IF;
        DELETE FROM lexical_outbox o WHERE o.seq = ANY (p_seqs);
    END
    $body$
"""

DEFER = f"""
    CREATE FUNCTION retrieval.outbox_defer(p_seq bigint, p_longest interval) RETURNS void
    LANGUAGE sql {DEFINER} AS $body$
        UPDATE lexical_outbox o SET attempts = o.attempts + 1,
            not_before = now() + least(p_longest, interval '5 s' * 2 ^ least(o.attempts, 20))
        WHERE o.seq = p_seq
    $body$
"""  # noqa: S608 - our own names

# Starts a rebuild unless one is under way, or the one with this id has succeeded.
BEGIN_REBUILD = f"""
    CREATE FUNCTION retrieval.rebuild_begin(p_request text, p_stale interval) RETURNS uuid
    LANGUAGE plpgsql {DEFINER} AS $body$
    DECLARE
        v_token uuid;
    BEGIN
        INSERT INTO lexical_rebuild AS r (token, request_id, state)
        VALUES (gen_random_uuid(), p_request, 'running')
        ON CONFLICT (only_row) DO UPDATE SET token = excluded.token,
            request_id = excluded.request_id, state = 'running', draft = '', done = 0,
            total = 0, beat_at = now()
        WHERE CASE r.state WHEN 'running' THEN r.beat_at < now() - p_stale
                           WHEN 'switched' THEN r.request_id <> p_request
                           ELSE true END
        RETURNING r.token INTO v_token;
        IF v_token IS NOT NULL THEN
            DELETE FROM lexical_journal;
        END IF;
        RETURN v_token;
    END
    $body$
"""  # noqa: S608 - our own names

# A batch of the journal, oldest first, and removing it once it is applied.
JOURNAL = f"""
    CREATE FUNCTION retrieval.journal_entries(p_limit integer)
    RETURNS TABLE (seq bigint, project_id text, document_id text, version bigint)
    LANGUAGE sql STABLE {DEFINER} AS $body$
        SELECT j.seq, j.project_id, j.document_id, j.version
        FROM lexical_journal j ORDER BY j.seq LIMIT p_limit
    $body$
"""  # noqa: S608 - our own names
JOURNAL_DONE = f"""
    CREATE FUNCTION retrieval.journal_done(p_seqs bigint[]) RETURNS void
    LANGUAGE sql {DEFINER} AS $body$
        DELETE FROM lexical_journal j WHERE j.seq = ANY (p_seqs)
    $body$
"""  # noqa: S608 - our own names
# No claim is under way when it returns, and none begins before the transaction ends.
HOLD = f"""
    CREATE FUNCTION retrieval.hold_claims() RETURNS void
    LANGUAGE plpgsql {DEFINER} AS $body$
    BEGIN
        PERFORM set_config('idle_in_transaction_session_timeout', '120s', true);
        PERFORM pg_advisory_xact_lock({SWITCH}, 0);
    END
    $body$
"""

DEFINERS = {
    "outbox_claim(integer, text, text)": CLAIM,
    "outbox_defer(bigint, interval)": DEFER,
    "rebuild_begin(text, interval)": BEGIN_REBUILD,
    "journal_entries(integer)": JOURNAL,
    "journal_done(bigint[])": JOURNAL_DONE,
    "hold_claims()": HOLD,
}


def upgrade() -> None:
    """Create tables and functions; only the runtime role may execute the definers."""
    for statement in TABLES:
        op.execute(statement)
    op.execute(DONE)
    for signature, statement in DEFINERS.items():
        op.execute(statement)
        op.execute(f"REVOKE ALL ON FUNCTION retrieval.{signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION retrieval.{signature} TO citemesh_retrieval")
