"""Neighbours come with their tokens, for a prompt's budget, and never with findings.

A chunk with injection findings is shown when it is found itself, flagged; as
somebody's neighbour it would enter a prompt unflagged.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

CONTRACT = "no release called the function it replaces"

# As in 0003 but for the token count and the flags. Not a definer: it sees the
# project's rows.
NEIGHBOURS = """
    CREATE FUNCTION retrieval.neighbours(
        p_project text, p_documents text[], p_versions bigint[], p_lows integer[],
        p_highs integer[]
    ) RETURNS TABLE (
        document_id text, version bigint, ordinal integer, body text, span_start bigint,
        span_end bigint, token_count integer
    ) LANGUAGE plpgsql STABLE
    SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
    SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan SET jit = off
    AS $body$
    #variable_conflict use_column
    BEGIN
        PERFORM set_config('citemesh.project_id', p_project, true);
        RETURN QUERY
            SELECT c.document_id, c.version, c.ordinal, c.body, c.span_start, c.span_end,
                   c.token_count
            FROM unnest(p_documents, p_versions, p_lows, p_highs)
                 AS w (document_id, version, low, high)
            JOIN retrieval.document d
              ON d.project_id = p_project AND d.document_id = w.document_id
             AND d.live_version = w.version
            JOIN retrieval.chunk c
              ON c.project_id = p_project AND c.document_id = w.document_id
             AND c.version = w.version AND c.ordinal BETWEEN w.low AND w.high
            WHERE c.flags = '{}';
    END
    $body$
"""


def upgrade() -> None:
    """Replace the function; its result has another type."""
    op.execute("DROP FUNCTION retrieval.neighbours(text, text[], bigint[], integer[], integer[])")
    op.execute(NEIGHBOURS)
