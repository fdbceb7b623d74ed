"""Work that crosses projects, as narrow functions: outbox, rebuild, garbage, neighbours.

The runtime role sees one project at a time. What the background tasks need beyond
that runs as the owner and returns ids and counts, never a text.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

DEFINER = "SECURITY DEFINER SET search_path = retrieval, pg_temp"

OUTBOX_ENTRIES = f"""
    CREATE FUNCTION retrieval.outbox_entries(p_limit integer)
    RETURNS TABLE (seq bigint, project_id text, document_id text, version bigint)
    LANGUAGE sql STABLE {DEFINER} AS $body$
        SELECT o.seq, o.project_id, o.document_id, o.version
        FROM retrieval.lexical_outbox o ORDER BY o.seq LIMIT p_limit
    $body$
"""  # noqa: S608 - our own names

OUTBOX_DONE = f"""
    CREATE FUNCTION retrieval.outbox_done(p_seqs bigint[]) RETURNS void
    LANGUAGE sql {DEFINER} AS $body$
        DELETE FROM retrieval.lexical_outbox o WHERE o.seq = ANY (p_seqs)
    $body$
"""  # noqa: S608 - our own names

OUTBOX_BACKLOG = f"""
    CREATE FUNCTION retrieval.outbox_backlog(OUT entries bigint, OUT oldest_seconds float8)
    LANGUAGE sql STABLE {DEFINER} AS $body$
        SELECT count(*), coalesce(extract(epoch FROM now() - min(o.queued_at)), 0)::float8
        FROM retrieval.lexical_outbox o
    $body$
"""  # noqa: S608 - our own names

# What the lexical index must hold: versions that are live or about to be.
INDEXED_VERSIONS = f"""
    CREATE FUNCTION retrieval.indexed_versions(
        p_project text, p_document text, p_version bigint, p_limit integer
    ) RETURNS TABLE (project_id text, document_id text, version bigint)
    LANGUAGE sql STABLE {DEFINER} AS $body$
        SELECT v.project_id, v.document_id, v.version FROM retrieval.document_version v
        WHERE (v.project_id, v.document_id, v.version) > (p_project, p_document, p_version)
        ORDER BY v.project_id, v.document_id, v.version LIMIT p_limit
    $body$
"""  # noqa: S608 - our own names

INDEXED_CHUNKS = f"""
    CREATE FUNCTION retrieval.indexed_chunks() RETURNS bigint
    LANGUAGE sql STABLE {DEFINER} AS $body$
        SELECT count(*) FROM retrieval.chunk c
        JOIN retrieval.document_version v USING (project_id, document_id, version)
    $body$
"""  # noqa: S608 - our own names

# Deletes at most `p_limit` chunks of retired versions, with their vectors. Returns
# how many chunks; 0 does not mean that nothing waits (see 0004, which replaces it).
COLLECT_GARBAGE = f"""
    CREATE FUNCTION retrieval.collect_garbage(p_limit integer) RETURNS bigint
    LANGUAGE plpgsql {DEFINER} AS $body$
    DECLARE
        v_retired record;
        v_keys    bigint[];
        v_number  integer;
        v_deleted bigint := 0;
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
        RETURN v_deleted;
    END
    $body$
"""  # noqa: S608 - our own names

FORGET_REQUESTS = f"""
    CREATE FUNCTION retrieval.forget_requests(p_age interval) RETURNS bigint
    LANGUAGE sql {DEFINER} AS $body$
        WITH gone AS (
            DELETE FROM retrieval.applied_request a WHERE a.applied_at < now() - p_age RETURNING 1
        )
        SELECT count(*) FROM gone
    $body$
"""  # noqa: S608 - our own names

# The chunks around hits, in reading order. Not a definer: it sees the project's rows.
NEIGHBOURS = """
    CREATE FUNCTION retrieval.neighbours(
        p_project text, p_documents text[], p_versions bigint[], p_lows integer[],
        p_highs integer[]
    ) RETURNS TABLE (
        document_id text, version bigint, ordinal integer, body text, span_start bigint,
        span_end bigint
    ) LANGUAGE plpgsql STABLE
    SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
    SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan SET jit = off
    AS $body$
    #variable_conflict use_column
    BEGIN
        PERFORM set_config('citemesh.project_id', p_project, true);
        RETURN QUERY
            SELECT c.document_id, c.version, c.ordinal, c.body, c.span_start, c.span_end
            FROM unnest(p_documents, p_versions, p_lows, p_highs)
                 AS w (document_id, version, low, high)
            JOIN retrieval.document d
              ON d.project_id = p_project AND d.document_id = w.document_id
             AND d.live_version = w.version
            JOIN retrieval.chunk c
              ON c.project_id = p_project AND c.document_id = w.document_id
             AND c.version = w.version AND c.ordinal BETWEEN w.low AND w.high;
    END
    $body$
"""

DEFINERS = {
    "outbox_entries(integer)": OUTBOX_ENTRIES,
    "outbox_done(bigint[])": OUTBOX_DONE,
    "outbox_backlog()": OUTBOX_BACKLOG,
    "indexed_versions(text, text, bigint, integer)": INDEXED_VERSIONS,
    "indexed_chunks()": INDEXED_CHUNKS,
    "collect_garbage(integer)": COLLECT_GARBAGE,
    "forget_requests(interval)": FORGET_REQUESTS,
}


def upgrade() -> None:
    """Create the functions; only the runtime role may execute the definers."""
    op.execute(NEIGHBOURS)
    for signature, statement in DEFINERS.items():
        op.execute(statement)
        op.execute(f"REVOKE ALL ON FUNCTION retrieval.{signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION retrieval.{signature} TO citemesh_retrieval")
