"""What an answer asks besides its search, each in one round trip instead of four.

Not definers: they see the rows of the project they are told, as a transaction that is bound to
it would.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

CORPUS_EPOCH = """
    CREATE FUNCTION retrieval.corpus_epoch(p_project text)
    RETURNS bigint LANGUAGE plpgsql STABLE AS $body$
    BEGIN
        PERFORM set_config('citemesh.project_id', p_project, true);
        RETURN coalesce(
            (SELECT s.corpus_epoch FROM retrieval.project_state s WHERE s.project_id = p_project),
            0
        );
    END
    $body$
"""

# By key, never by a scan: see LOOKUP_SETTINGS of 0002. The order is the caller's.
CHUNKS_BY_ID = """
    CREATE FUNCTION retrieval.chunks_by_id(
        p_project text, p_principals text[], p_documents text[], p_versions bigint[],
        p_ordinals integer[]
    ) RETURNS TABLE (
        document_id text, version bigint, ordinal integer, title text, body text, page integer,
        page_end integer, headings text[], span_start bigint, span_end bigint, section text,
        token_count integer, flags text[]
    ) LANGUAGE plpgsql STABLE
    SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
    SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan SET jit = off
    AS $body$
    #variable_conflict use_column
    BEGIN
        PERFORM set_config('citemesh.project_id', p_project, true);
        RETURN QUERY
            SELECT c.document_id, c.version, c.ordinal, d.title, c.body, c.page, c.page_end,
                   c.headings, c.span_start, c.span_end, c.section, c.token_count, c.flags
            FROM unnest(p_documents, p_versions, p_ordinals) WITH ORDINALITY
                 AS w (document_id, version, ordinal, place)
            JOIN retrieval.document d
              ON d.project_id = p_project AND d.document_id = w.document_id
             AND d.live_version = w.version
            JOIN retrieval.chunk c
              ON c.project_id = p_project AND c.document_id = w.document_id
             AND c.version = w.version AND c.ordinal = w.ordinal
            WHERE d.allow = '{}' OR d.allow && p_principals
            ORDER BY w.place;
    END
    $body$
"""


def upgrade() -> None:
    op.execute(CORPUS_EPOCH)
    op.execute(CHUNKS_BY_ID)
