"""Projects that were purged take nothing any more; a batch of garbage says whether more waits.

`purged_project` holds ids only. It is never emptied: a write may come at any time
after its project, and whatever else would refuse it went with the purge.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# No UPDATE and no DELETE for the runtime role: what was purged stays purged.
PURGED_PROJECT = (
    """
    CREATE TABLE retrieval.purged_project (
        project_id text PRIMARY KEY,
        purged_at  timestamptz NOT NULL DEFAULT now()
    )
    """,
    "ALTER TABLE retrieval.purged_project ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE retrieval.purged_project FORCE ROW LEVEL SECURITY",
    """
    CREATE POLICY project_rows ON retrieval.purged_project TO citemesh_retrieval
    USING (project_id = (SELECT current_setting('citemesh.project_id', true)))
    WITH CHECK (project_id = (SELECT current_setting('citemesh.project_id', true)))
    """,
    """
    CREATE POLICY every_row ON retrieval.purged_project TO citemesh_retrieval_owner
    USING (true) WITH CHECK (true)
    """,
    "GRANT SELECT, INSERT ON retrieval.purged_project TO citemesh_retrieval",
)

# As in 0003, but a retired version that had no chunks left counts as well: a batch of
# only such versions returned 0 there, and those behind it waited for the next round.
# 0 now means that nothing waits but what another collector holds.
COLLECT_GARBAGE = """
    CREATE OR REPLACE FUNCTION retrieval.collect_garbage(p_limit integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = retrieval, pg_temp AS $body$
    DECLARE
        v_retired  record;
        v_keys     bigint[];
        v_number   integer;
        v_deleted  bigint := 0;
        v_versions bigint := 0;
    BEGIN
        FOR v_retired IN
            SELECT r.project_id, r.document_id, r.version FROM retrieval.retired_version r
            ORDER BY r.retired_at LIMIT 100 FOR UPDATE SKIP LOCKED
        LOOP
            SELECT array_agg(x.id) INTO v_keys FROM (
                SELECT c.id FROM retrieval.chunk c
                WHERE c.project_id = v_retired.project_id
                  AND c.document_id = v_retired.document_id AND c.version = v_retired.version
                LIMIT p_limit - v_deleted
            ) x;
            IF v_keys IS NULL THEN
                DELETE FROM retrieval.retired_version r
                WHERE r.project_id = v_retired.project_id
                  AND r.document_id = v_retired.document_id AND r.version = v_retired.version;
                v_versions := v_versions + 1;
                CONTINUE;
            END IF;
            FOR v_number IN SELECT s.number FROM retrieval.space_table s LOOP
                EXECUTE format('DELETE FROM retrieval.%I WHERE chunk_key = ANY ($1)',
                               format('dense_%s', v_number)) USING v_keys;
            END LOOP;
            DELETE FROM retrieval.chunk c WHERE c.id = ANY (v_keys);
            v_deleted := v_deleted + cardinality(v_keys);
            EXIT WHEN v_deleted >= p_limit;
        END LOOP;
        RETURN v_deleted + v_versions;
    END
    $body$
"""


def upgrade() -> None:
    """Create the table; replace the function, which keeps its grants."""
    for statement in PURGED_PROJECT:
        op.execute(statement)
    op.execute(COLLECT_GARBAGE)
