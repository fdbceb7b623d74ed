"""One dense table per embedding space, and the functions that search it in one round trip.

`ensure_space` registers a space and creates `dense_<n>` with its index, policies
and functions. A later migration that changes a function's body calls
`define_search` again for every row of `space_table`.

Measured on 20k x 384: an HNSW lookup with 50 candidates costs 0.5 ms, and about
6 us for every further candidate that a filter throws away; an exact scan costs
0.6 us a row. `search_<n>` compares the two for the project at hand, and falls
back to the exact scan when the approximate one ran dry. Relaxed iterative order
is not sorted: distances are sorted again.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Which documents `d` the caller may see; the parameters are named alike everywhere.
VISIBLE = """
    (d.allow = '{}' OR d.allow && p_principals)
    AND (p_labels IS NULL OR d.labels @> p_labels)
    AND (p_documents IS NULL OR d.document_id = ANY (p_documents))
    AND (p_after IS NULL OR d.activated_at >= p_after)
    AND (p_before IS NULL OR d.activated_at < p_before)
"""
FILTER_PARAMETERS = (
    "p_principals text[], p_labels jsonb, p_documents text[], "
    "p_after timestamptz, p_before timestamptz"
)
FILTER_ARGUMENTS = "p_principals, p_labels, p_documents, p_after, p_before"

# The rows of a search. The first has key 0 and tells the corpus epoch, the dense
# candidates with their distances and the lexical candidates that may be seen, both
# best first. The others are the chunks that will probably be shown: the best
# `p_texts` by reciprocal rank. Texts are most of what travels (100 of them cost
# 0.6 ms, a second round trip 0.3 ms); whoever fuses otherwise asks for the rest.
ROW = """
    key bigint, corpus_epoch bigint, dense_keys bigint[], distances double precision[],
    lexical_keys bigint[], document_id text, version bigint, ordinal integer, title text,
    body text, page integer, page_end integer, headings text[], span_start bigint,
    span_end bigint, section text, token_count integer, flags text[]
"""
NO_CHUNK = """
    NULL::text, NULL::bigint, NULL::integer, NULL::text, NULL::text, NULL::integer,
    NULL::integer, NULL::text[], NULL::bigint, NULL::bigint, NULL::text, NULL::integer,
    NULL::text[]
"""

# The end of every search, from `v_epoch`, `v_keys`, `v_distances` and `p_keys`.
# LATERAL with OFFSET 0 says the order of the lookups: key, chunk, document. Where
# statistics are missing, as right after a bulk load, the planner began with the
# project's documents and read all their chunks: 43 ms instead of 2.
ANSWER = f"""
        SELECT array_agg(c.id ORDER BY p.place) INTO v_words
        FROM unnest(p_keys) WITH ORDINALITY AS p (key, place)
        CROSS JOIN LATERAL (
            SELECT c.id, c.document_id, c.version FROM retrieval.chunk c
            WHERE c.id = p.key AND c.project_id = p_project OFFSET 0
        ) c
        CROSS JOIN LATERAL (
            SELECT FROM retrieval.document d
            WHERE d.project_id = p_project AND d.document_id = c.document_id
              AND d.live_version = c.version AND {VISIBLE} OFFSET 0
        ) d;
        RETURN QUERY SELECT 0::bigint, coalesce(v_epoch, 0), v_keys, v_distances, v_words,
            {NO_CHUNK};
        RETURN QUERY
            SELECT c.id, NULL::bigint, NULL::bigint[], NULL::double precision[], NULL::bigint[],
                   c.document_id, c.version, c.ordinal, d.title, c.body, c.page, c.page_end,
                   c.headings, c.span_start, c.span_end, c.section, c.token_count, c.flags
            FROM (
                SELECT r.key FROM (
                    SELECT x.key, p_dense_weight / (60 + x.place) AS share
                    FROM unnest(v_keys) WITH ORDINALITY AS x (key, place)
                    UNION ALL
                    SELECT x.key, p_lexical_weight / (60 + x.place)
                    FROM unnest(v_words) WITH ORDINALITY AS x (key, place)
                ) r
                GROUP BY r.key ORDER BY sum(r.share) DESC, r.key LIMIT p_texts
            ) best
            CROSS JOIN LATERAL (
                SELECT c.* FROM retrieval.chunk c
                WHERE c.id = best.key AND c.project_id = p_project OFFSET 0
            ) c
            CROSS JOIN LATERAL (
                SELECT d.title FROM retrieval.document d
                WHERE d.project_id = p_project AND d.document_id = c.document_id OFFSET 0
            ) d;
"""  # noqa: S608 - our own names
ANSWER_PARAMETERS = (
    "p_keys bigint[], p_texts integer, p_dense_weight double precision, "
    "p_lexical_weight double precision"
)

# Lookups by key for at most a few hundred keys: never worth a hash or a scan.
LOOKUP_SETTINGS = """
    SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
    SET enable_mergejoin = off SET enable_material = off
    SET plan_cache_mode = force_generic_plan SET jit = off
"""

SEARCH_LEXICAL = f"""
    CREATE FUNCTION retrieval.search_lexical(
        p_project text, {ANSWER_PARAMETERS}, {FILTER_PARAMETERS}
    ) RETURNS TABLE ({ROW}) LANGUAGE plpgsql STABLE ROWS 20
    {LOOKUP_SETTINGS}
    AS $body$
    #variable_conflict use_column
    DECLARE
        v_epoch     bigint;
        v_keys      bigint[];
        v_distances double precision[];
        v_words     bigint[];
    BEGIN
        PERFORM set_config('citemesh.project_id', p_project, true);
        SELECT s.corpus_epoch INTO v_epoch
        FROM retrieval.project_state s WHERE s.project_id = p_project;
        {ANSWER}
    END
    $body$
"""  # noqa: S608 - our own names

DEFINE_TABLE = """
    CREATE FUNCTION retrieval.define_table(p_number integer, p_dimensions integer)
    RETURNS void LANGUAGE plpgsql SET search_path = retrieval, pg_temp AS $define$
    DECLARE
        t text := format('dense_%s', p_number);
    BEGIN
        EXECUTE format($sql$
            CREATE TABLE retrieval.%I (
                chunk_key   bigint PRIMARY KEY,
                project_id  text NOT NULL,
                document_id text NOT NULL,
                version     bigint NOT NULL,
                embedding   public.halfvec(%s) NOT NULL
            )$sql$, t, p_dimensions);
        -- In the row and uncompressed while a row fits a page: an exact scan reads it all.
        EXECUTE format('ALTER TABLE retrieval.%I ALTER COLUMN embedding SET STORAGE %s', t,
                       CASE WHEN p_dimensions <= 3800 THEN 'PLAIN' ELSE 'EXTERNAL' END);
        EXECUTE format('CREATE INDEX ON retrieval.%I (project_id, document_id, version)', t);
        EXECUTE format('CREATE INDEX ON retrieval.%I '
                       'USING hnsw (embedding public.halfvec_cosine_ops)', t);
        EXECUTE format('ALTER TABLE retrieval.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE retrieval.%I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format($sql$
            CREATE POLICY project_rows ON retrieval.%I TO citemesh_retrieval
            USING (project_id = (SELECT current_setting('citemesh.project_id', true)))
            WITH CHECK (project_id = (SELECT current_setting('citemesh.project_id', true)))
            $sql$, t);
        EXECUTE format($sql$
            CREATE POLICY every_row ON retrieval.%I TO citemesh_retrieval_owner
            USING (true) WITH CHECK (true)$sql$, t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON retrieval.%I '
                       'TO citemesh_retrieval', t);
    END
    $define$
"""

# The planner is made to walk the vector index and look up each row's document: the
# one plan in which a filter draws further candidates until there are enough. It gives
# up after 4000: a filter that lets less than about 1 in 80 pass leaves few rows, and
# the exact scan, which starts at the visible documents, reads only those.
APPROXIMATE = f"""
    CREATE OR REPLACE FUNCTION retrieval.approximate_%1$s(
        p_project text, p_vector public.halfvec, p_depth integer, {FILTER_PARAMETERS},
        OUT keys bigint[], OUT distances double precision[]
    ) LANGUAGE plpgsql STABLE
    {LOOKUP_SETTINGS} SET enable_sort = off
    SET hnsw.iterative_scan = relaxed_order SET hnsw.ef_search = 100
    SET hnsw.max_scan_tuples = 4000
    AS $body$
    BEGIN
        SELECT array_agg(x.chunk_key ORDER BY x.distance, x.chunk_key),
               array_agg(x.distance ORDER BY x.distance, x.chunk_key)
        INTO keys, distances
        FROM (
            SELECT e.chunk_key, e.embedding OPERATOR(public.<=>) p_vector AS distance
            FROM retrieval.dense_%1$s e
            CROSS JOIN LATERAL (
                SELECT FROM retrieval.document d
                WHERE d.project_id = e.project_id AND d.document_id = e.document_id
                  AND d.live_version = e.version AND {VISIBLE}
                OFFSET 0
            ) d
            WHERE e.project_id = p_project
            ORDER BY e.embedding OPERATOR(public.<=>) p_vector LIMIT p_depth
        ) x;
    END
    $body$
"""  # noqa: S608 - our own names

EXACT = f"""
    CREATE OR REPLACE FUNCTION retrieval.exact_%1$s(
        p_project text, p_vector public.halfvec, p_depth integer, {FILTER_PARAMETERS},
        OUT keys bigint[], OUT distances double precision[]
    ) LANGUAGE plpgsql STABLE SET jit = off
    AS $body$
    BEGIN
        SELECT array_agg(x.chunk_key ORDER BY x.distance, x.chunk_key),
               array_agg(x.distance ORDER BY x.distance, x.chunk_key)
        INTO keys, distances
        FROM (
            SELECT e.chunk_key, (e.embedding OPERATOR(public.<=>) p_vector) + 0 AS distance
            FROM retrieval.dense_%1$s e
            JOIN retrieval.document d
              ON d.project_id = e.project_id AND d.document_id = e.document_id
             AND d.live_version = e.version
            WHERE e.project_id = p_project AND d.project_id = p_project AND {VISIBLE}
            ORDER BY 2 LIMIT p_depth
        ) x;
    END
    $body$
"""  # noqa: S608 - our own names

SEARCH = f"""
    CREATE OR REPLACE FUNCTION retrieval.search_%1$s(
        p_project text, p_vector real[], p_depth integer, {ANSWER_PARAMETERS}, {FILTER_PARAMETERS}
    ) RETURNS TABLE ({ROW}) LANGUAGE plpgsql STABLE ROWS 20
    {LOOKUP_SETTINGS}
    AS $body$
    #variable_conflict use_column
    DECLARE
        v_vector    public.halfvec(%2$s) := p_vector::public.halfvec(%2$s);
        v_epoch     bigint;
        v_live      double precision;
        v_total     double precision;
        v_keys      bigint[];
        v_distances double precision[];
        v_words     bigint[];
    BEGIN
        PERFORM set_config('citemesh.project_id', p_project, true);
        SELECT s.corpus_epoch, s.live_chunks INTO v_epoch, v_live
        FROM retrieval.project_state s WHERE s.project_id = p_project;
        v_live := coalesce(v_live, 0);
        SELECT greatest(k.reltuples, v_live) INTO v_total
        FROM pg_catalog.pg_class k WHERE k.oid = 'retrieval.dense_%1$s'::regclass;
        IF p_documents IS NOT NULL
           OR 0.6 * v_live <= 500 + 6 * p_depth * v_total / (v_live + 1) THEN
            SELECT f.keys, f.distances INTO v_keys, v_distances
            FROM retrieval.exact_%1$s(p_project, v_vector, p_depth, {FILTER_ARGUMENTS}) f;
        ELSE
            SELECT f.keys, f.distances INTO v_keys, v_distances
            FROM retrieval.approximate_%1$s(p_project, v_vector, p_depth, {FILTER_ARGUMENTS}) f;
            IF coalesce(cardinality(v_keys), 0) < p_depth THEN
                SELECT f.keys, f.distances INTO v_keys, v_distances
                FROM retrieval.exact_%1$s(p_project, v_vector, p_depth, {FILTER_ARGUMENTS}) f;
            END IF;
        END IF;
        {ANSWER}
    END
    $body$
"""  # noqa: S608 - our own names

DEFINE_SEARCH = f"""
    CREATE FUNCTION retrieval.define_search(p_number integer, p_dimensions integer)
    RETURNS void LANGUAGE plpgsql SET search_path = retrieval, pg_temp AS $define$
    BEGIN
        -- Loads the extension's library, which defines the hnsw settings used below.
        PERFORM '[1]'::public.halfvec;
        EXECUTE format($sql${APPROXIMATE}$sql$, p_number, p_dimensions);
        EXECUTE format($sql${EXACT}$sql$, p_number, p_dimensions);
        EXECUTE format($sql${SEARCH}$sql$, p_number, p_dimensions);
    END
    $define$
"""

ENSURE_SPACE = """
    CREATE FUNCTION retrieval.ensure_space(p_space text, p_dimensions integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = retrieval, pg_temp AS $body$
    DECLARE
        v_number     integer;
        v_dimensions integer;
    BEGIN
        PERFORM pg_advisory_xact_lock(hashtext('retrieval.ensure_space'));
        SELECT s.number, s.dimensions INTO v_number, v_dimensions
        FROM retrieval.space_table s WHERE s.space = p_space;
        IF v_number IS NOT NULL THEN
            IF v_dimensions <> p_dimensions THEN
                RAISE EXCEPTION 'space % holds vectors of %, not %',
                    p_space, v_dimensions, p_dimensions USING ERRCODE = 'CM409';
            END IF;
            RETURN v_number;
        END IF;
        INSERT INTO retrieval.space_table (number, space, dimensions)
        SELECT coalesce(max(s.number), 0) + 1, p_space, p_dimensions FROM retrieval.space_table s
        RETURNING number INTO v_number;
        PERFORM retrieval.define_table(v_number, p_dimensions);
        PERFORM retrieval.define_search(v_number, p_dimensions);
        RETURN v_number;
    END
    $body$
"""


def upgrade() -> None:
    """Create the functions; no space exists before the first vector arrives."""
    for statement in (SEARCH_LEXICAL, DEFINE_TABLE, DEFINE_SEARCH, ENSURE_SPACE):
        op.execute(statement)
    for signature in (
        "define_table(integer, integer)",
        "define_search(integer, integer)",
        "ensure_space(text, integer)",
    ):
        op.execute(f"REVOKE ALL ON FUNCTION retrieval.{signature} FROM PUBLIC")
    op.execute(
        "GRANT EXECUTE ON FUNCTION retrieval.ensure_space(text, integer) TO citemesh_retrieval"
    )
