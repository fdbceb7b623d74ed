"""What an answer asks besides its search, each in one round trip instead of four.

Not definers: they see the rows of the project they are told, as a transaction that is bound to
it would.
"""

from importlib import import_module

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

first = import_module("services.retrieval.migrations.versions.0002_spaces_and_search")

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

# By key, never by a scan. The order is the caller's.
CHUNKS_BY_ID = f"""
    CREATE FUNCTION retrieval.chunks_by_id(
        p_project text, p_principals text[], p_documents text[], p_versions bigint[],
        p_ordinals integer[]
    ) RETURNS TABLE (
        document_id text, version bigint, ordinal integer, title text, body text, page integer,
        page_end integer, headings text[], span_start bigint, span_end bigint, section text,
        token_count integer, flags text[]
    ) LANGUAGE plpgsql STABLE
    {first.LOOKUP_SETTINGS}
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
            WHERE d.allow = '{{}}' OR d.allow && p_principals
            ORDER BY w.place;
    END
    $body$
"""  # noqa: S608 - our own names


def upgrade() -> None:
    op.execute(CORPUS_EPOCH)
    op.execute(CHUNKS_BY_ID)
