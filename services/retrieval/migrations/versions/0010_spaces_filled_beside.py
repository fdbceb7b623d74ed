"""Embedding spaces filled beside the active one: what each still lacks, and who fills it.

`space_table.duty` is what this service does about a space at every activation:

    required  a version goes live only when all its vectors are here: the active space
    followed  what is missing is noted in `space_work` and filled soon: building, standby
    none      nothing, and it is not searched: retired
    unknown   nothing; it is searched: nobody has said yet which space is the active one

`space_work` has a row for each version that lacks vectors in a space. It is written in
the transaction that makes the version live, and goes in the one that writes the last
vector, so an empty one means that nothing is missing. Changing a duty takes the lock
SPACES alone, and every activation shares it: none falls between a duty and its work.

Numbers of dense tables come from a sequence: the number of a space that was dropped
must never become another one's, which a process that still knows it would mix up.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

DEFINER = "SECURITY DEFINER SET search_path = retrieval, pg_temp"
SPACES = 0x73706163
"""First key of the lock; see 0009 for the others."""

TABLES = (
    """
    ALTER TABLE retrieval.space_table
        ADD COLUMN version         text NOT NULL DEFAULT '',
        ADD COLUMN duty            text NOT NULL DEFAULT 'unknown'
                                   CHECK (duty IN ('unknown', 'none', 'followed', 'required')),
        ADD COLUMN paused          boolean NOT NULL DEFAULT false,
        ADD COLUMN trouble         text NOT NULL DEFAULT '',
        ADD COLUMN lease_owner     text NOT NULL DEFAULT '',
        ADD COLUMN lease_expires   timestamptz,
        ADD COLUMN lease_epoch     bigint NOT NULL DEFAULT 0,
        ADD COLUMN switching_until timestamptz
    """,
    "CREATE SEQUENCE retrieval.space_number AS integer",
    """
    SELECT setval('retrieval.space_number', max(number)) FROM retrieval.space_table
    HAVING max(number) IS NOT NULL
    """,
    """
    CREATE TABLE retrieval.space_work (
        seq         bigserial PRIMARY KEY,
        number      integer NOT NULL,
        project_id  text NOT NULL,
        document_id text NOT NULL,
        version     bigint NOT NULL,
        lacking     bigint NOT NULL,
        attempts    integer NOT NULL DEFAULT 0,
        not_before  timestamptz NOT NULL DEFAULT '-infinity',
        reason      text NOT NULL DEFAULT '',
        UNIQUE (number, project_id, document_id, version)
    )
    """,
    "CREATE INDEX space_work_order ON retrieval.space_work (number, seq)",
    "ALTER TABLE retrieval.space_work ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE retrieval.space_work FORCE ROW LEVEL SECURITY",
    """
    CREATE POLICY project_rows ON retrieval.space_work TO citemesh_retrieval
    USING (project_id = (SELECT current_setting('citemesh.project_id', true)))
    WITH CHECK (project_id = (SELECT current_setting('citemesh.project_id', true)))
    """,
    """
    CREATE POLICY every_row ON retrieval.space_work TO citemesh_retrieval_owner
    USING (true) WITH CHECK (true)
    """,
    "GRANT SELECT, INSERT, UPDATE, DELETE ON retrieval.space_work TO citemesh_retrieval",
    "GRANT USAGE ON SEQUENCE retrieval.space_work_seq_seq TO citemesh_retrieval",
    """
    GRANT UPDATE (paused, trouble, lease_owner, lease_expires, lease_epoch)
    ON retrieval.space_table TO citemesh_retrieval
    """,
)

# A fingerprint that is not known yet is taken over; another one is refused.
ENSURE_SPACE = f"""
    CREATE FUNCTION retrieval.ensure_space(p_space text, p_dimensions integer, p_version text)
    RETURNS integer LANGUAGE plpgsql {DEFINER} AS $body$
    DECLARE
        v_found space_table;
    BEGIN
        PERFORM pg_advisory_xact_lock(hashtext('retrieval.ensure_space'));
        SELECT * INTO v_found FROM space_table s WHERE s.space = p_space;
        IF v_found.number IS NULL THEN
            INSERT INTO space_table (number, space, dimensions, version)
            VALUES (nextval('space_number'), p_space, p_dimensions, p_version)
            RETURNING * INTO v_found;
            PERFORM define_table(v_found.number, p_dimensions);
            PERFORM define_search(v_found.number, p_dimensions);
        ELSIF v_found.dimensions <> p_dimensions THEN
            RAISE EXCEPTION 'space % holds vectors of %, not %',
                p_space, v_found.dimensions, p_dimensions USING ERRCODE = 'CM409';
        ELSIF p_version <> '' AND v_found.version = '' THEN
            UPDATE space_table s SET version = p_version WHERE s.number = v_found.number;
        ELSIF p_version <> '' AND v_found.version <> p_version THEN
            RAISE EXCEPTION 'space % was filled by version %, not %',
                p_space, v_found.version, p_version USING ERRCODE = 'CM409';
        END IF;
        RETURN v_found.number;
    END
    $body$
"""  # noqa: S608 - our own names
# What processes of the release before call.
ENSURE_SPACE_BEFORE = f"""
    CREATE OR REPLACE FUNCTION retrieval.ensure_space(p_space text, p_dimensions integer)
    RETURNS integer LANGUAGE sql {DEFINER} AS $body$
        SELECT ensure_space(p_space, p_dimensions, '')
    $body$
"""

# Notes what a version that is about to be live lacks; returns how many vectors of
# required spaces. Not a definer: it sees the project's rows.
SPREAD_VERSION = f"""
    CREATE FUNCTION retrieval.spread_version(
        p_project text, p_document text, p_version bigint, p_chunks bigint
    ) RETURNS bigint LANGUAGE plpgsql SET search_path = retrieval, pg_temp AS $body$
    DECLARE
        v_space   record;
        v_lacking bigint;
        v_total   bigint := 0;
    BEGIN
        PERFORM pg_advisory_xact_lock_shared({SPACES}, 0);
        FOR v_space IN
            SELECT s.number, s.duty FROM space_table s WHERE s.duty IN ('followed', 'required')
        LOOP
            EXECUTE format('SELECT $4 - count(*) FROM %I e WHERE e.project_id = $1 '
                           'AND e.document_id = $2 AND e.version = $3',
                           format('dense_%s', v_space.number))
            INTO v_lacking USING p_project, p_document, p_version, p_chunks;
            CONTINUE WHEN v_lacking <= 0;
            INSERT INTO space_work (number, project_id, document_id, version, lacking)
            VALUES (v_space.number, p_project, p_document, p_version, v_lacking)
            ON CONFLICT (number, project_id, document_id, version)
            DO UPDATE SET lacking = excluded.lacking;
            IF v_space.duty = 'required' THEN
                v_total := v_total + v_lacking;
            END IF;
        END LOOP;
        RETURN v_total;
    END
    $body$
"""  # noqa: S608 - our own names

# Notes every live version that lacks vectors in a space; returns how many. An activation
# under way notes its own, if the space is followed already.
SEED_SPACE = f"""
    CREATE FUNCTION retrieval.seed_space(p_number integer) RETURNS bigint
    LANGUAGE plpgsql {DEFINER} AS $body$
    DECLARE
        v_count bigint;
    BEGIN
        EXECUTE format($sql$
            INSERT INTO space_work (number, project_id, document_id, version, lacking)
            SELECT $1, d.project_id, d.document_id, d.live_version, d.live_chunks - h.have
            FROM document d
            CROSS JOIN LATERAL (
                SELECT count(*) AS have FROM %I e WHERE e.project_id = d.project_id
                AND e.document_id = d.document_id AND e.version = d.live_version
            ) h
            WHERE d.live_version IS NOT NULL AND d.live_chunks > h.have
            ORDER BY d.project_id, d.document_id
            ON CONFLICT (number, project_id, document_id, version)
            DO UPDATE SET lacking = excluded.lacking
            $sql$, format('dense_%s', p_number)) USING p_number;
        GET DIAGNOSTICS v_count = ROW_COUNT;
        RETURN v_count;
    END
    $body$
"""  # noqa: S608 - our own names

SET_DUTY = f"""
    CREATE FUNCTION retrieval.set_duty(p_number integer, p_duty text) RETURNS void
    LANGUAGE plpgsql {DEFINER} AS $body$
    DECLARE
        v_before text;
    BEGIN
        PERFORM pg_advisory_xact_lock({SPACES}, 0);
        SELECT s.duty INTO v_before FROM space_table s WHERE s.number = p_number;
        UPDATE space_table s SET duty = p_duty, switching_until = NULL,
            paused = s.paused AND p_duty = 'followed'
        WHERE s.number = p_number;
        IF p_duty NOT IN ('followed', 'required') THEN
            DELETE FROM space_work w WHERE w.number = p_number;
        ELSIF v_before NOT IN ('followed', 'required') THEN
            PERFORM seed_space(p_number);
        END IF;
    END
    $body$
"""  # noqa: S608 - our own names

# Makes a space required if nothing is missing there; returns how many versions are.
REQUIRE_SPACE = f"""
    CREATE FUNCTION retrieval.require_space(p_number integer, p_longest interval) RETURNS bigint
    LANGUAGE plpgsql {DEFINER} AS $body$
    DECLARE
        v_missing bigint;
    BEGIN
        PERFORM pg_advisory_xact_lock({SPACES}, 0);
        SELECT count(*) INTO v_missing FROM space_work w WHERE w.number = p_number;
        IF v_missing = 0 THEN
            UPDATE space_table s SET duty = 'required', paused = false,
                switching_until = now() + p_longest
            WHERE s.number = p_number AND s.duty IN ('followed', 'required');
        END IF;
        RETURN v_missing;
    END
    $body$
"""  # noqa: S608 - our own names

# Live chunks, and those of them that have their vector in a space: chunk by chunk.
COUNT_SPACE = f"""
    CREATE FUNCTION retrieval.count_space(p_number integer, OUT live bigint, OUT filled bigint)
    LANGUAGE plpgsql STABLE {DEFINER} AS $body$
    BEGIN
        EXECUTE format($sql$
            SELECT count(*), count(e.chunk_key)
            FROM document d
            JOIN chunk c ON c.project_id = d.project_id AND c.document_id = d.document_id
             AND c.version = d.live_version
            LEFT JOIN %I e ON e.chunk_key = c.id AND e.project_id = c.project_id
             AND e.document_id = c.document_id AND e.version = c.version
            $sql$, format('dense_%s', p_number)) INTO live, filled;
    END
    $body$
"""  # noqa: S608 - our own names

# Live chunks without a vector in a space (0 for one without a table), their tokens, and
# how many are longer than a model reads. Counted by the tokenizer they were cut with.
MEASURE_SPACE = f"""
    CREATE FUNCTION retrieval.measure_space(
        p_number integer, p_longest integer,
        OUT chunks bigint, OUT tokens bigint, OUT too_long bigint
    ) LANGUAGE plpgsql STABLE {DEFINER} AS $body$
    BEGIN
        EXECUTE format($sql$
            SELECT count(*), coalesce(sum(c.token_count), 0),
                   count(*) FILTER (WHERE c.token_count > $1)
            FROM document d
            JOIN chunk c ON c.project_id = d.project_id AND c.document_id = d.document_id
             AND c.version = d.live_version
            %s $sql$,
            CASE WHEN p_number > 0 THEN format('WHERE NOT EXISTS (SELECT FROM %I e '
                'WHERE e.chunk_key = c.id)', format('dense_%s', p_number)) ELSE '' END)
        INTO chunks, tokens, too_long USING p_longest;
    END
    $body$
"""  # noqa: S608 - our own names

SPACES_DUE = f"""
    CREATE FUNCTION retrieval.spaces_due() RETURNS TABLE (number integer, space text)
    LANGUAGE sql STABLE {DEFINER} AS $body$
        SELECT s.number, s.space FROM space_table s
        WHERE s.duty IN ('followed', 'required') AND NOT s.paused
          AND (s.lease_expires IS NULL OR s.lease_expires < now())
          AND EXISTS (SELECT FROM space_work w
                      WHERE w.number = s.number AND w.not_before <= now())
    $body$
"""  # noqa: S608 - our own names

# Ids and counts of what to fill next, projects together as far as they came together.
SPACE_NEXT = f"""
    CREATE FUNCTION retrieval.space_next(p_number integer, p_limit integer)
    RETURNS TABLE (project_id text, document_id text, version bigint)
    LANGUAGE sql STABLE {DEFINER} AS $body$
        SELECT w.project_id, w.document_id, w.version FROM space_work w
        WHERE w.number = p_number AND w.not_before <= now() ORDER BY w.seq LIMIT p_limit
    $body$
"""  # noqa: S608 - our own names

SPACE_BACKLOG = f"""
    CREATE FUNCTION retrieval.space_backlog()
    RETURNS TABLE (number integer, pending bigint, stuck bigint, reason text)
    LANGUAGE sql STABLE {DEFINER} AS $body$
        SELECT s.number, coalesce(sum(w.lacking), 0)::bigint,
               coalesce(sum(w.lacking) FILTER (WHERE w.reason <> ''), 0)::bigint, max(w.reason)
        FROM space_table s LEFT JOIN space_work w ON w.number = s.number GROUP BY s.number
    $body$
"""  # noqa: S608 - our own names

LIVE_CHUNKS = f"""
    CREATE FUNCTION retrieval.live_chunks() RETURNS bigint
    LANGUAGE sql STABLE {DEFINER} AS $body$
        SELECT coalesce(sum(p.live_chunks), 0)::bigint FROM project_state p
    $body$
"""  # noqa: S608 - our own names

RETRY_SPACE = f"""
    CREATE FUNCTION retrieval.retry_space(p_number integer) RETURNS void
    LANGUAGE sql {DEFINER} AS $body$
        UPDATE space_work w SET not_before = '-infinity', attempts = 0, reason = ''
        WHERE w.number = p_number AND w.not_before > '-infinity'
    $body$
"""  # noqa: S608 - our own names

# The table goes as a whole, with its functions; returns the bytes it had.
DROP_SPACE = f"""
    CREATE FUNCTION retrieval.drop_space(p_number integer) RETURNS bigint
    LANGUAGE plpgsql {DEFINER} AS $body$
    DECLARE
        v_name  text := format('dense_%s', p_number);
        v_bytes bigint;
        v_each  regprocedure;
    BEGIN
        PERFORM pg_advisory_xact_lock({SPACES}, 0);
        DELETE FROM space_table s WHERE s.number = p_number AND s.duty = 'none';
        IF NOT FOUND THEN
            RAISE EXCEPTION 'space % is in use or gone', p_number USING ERRCODE = 'CM409';
        END IF;
        v_bytes := pg_total_relation_size(format('retrieval.%I', v_name)::regclass);
        DELETE FROM space_work w WHERE w.number = p_number;
        FOR v_each IN
            SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'retrieval'::regnamespace
            AND p.proname IN (format('search_%s', p_number), format('exact_%s', p_number),
                              format('approximate_%s', p_number))
        LOOP
            EXECUTE format('DROP FUNCTION %s', v_each);
        END LOOP;
        EXECUTE format('DROP TABLE retrieval.%I', v_name);
        RETURN v_bytes;
    END
    $body$
"""  # noqa: S608 - our own names

# As in 0004, but a vector that a filler is about to write is waited for and found: the
# chunks are locked before the dense tables are looked at. None is dropped meanwhile.
COLLECT_GARBAGE = f"""
    CREATE OR REPLACE FUNCTION retrieval.collect_garbage(p_limit integer) RETURNS bigint
    LANGUAGE plpgsql {DEFINER} AS $body$
    DECLARE
        v_retired  record;
        v_keys     bigint[];
        v_number   integer;
        v_deleted  bigint := 0;
        v_versions bigint := 0;
    BEGIN
        PERFORM pg_advisory_xact_lock_shared({SPACES}, 0);
        FOR v_retired IN
            SELECT r.project_id, r.document_id, r.version FROM retired_version r
            ORDER BY r.retired_at LIMIT 100 FOR UPDATE SKIP LOCKED
        LOOP
            SELECT array_agg(x.id) INTO v_keys FROM (
                SELECT c.id FROM chunk c
                WHERE c.project_id = v_retired.project_id
                  AND c.document_id = v_retired.document_id AND c.version = v_retired.version
                LIMIT p_limit - v_deleted FOR UPDATE
            ) x;
            IF v_keys IS NULL THEN
                DELETE FROM retired_version r
                WHERE r.project_id = v_retired.project_id
                  AND r.document_id = v_retired.document_id AND r.version = v_retired.version;
                v_versions := v_versions + 1;
                CONTINUE;
            END IF;
            FOR v_number IN SELECT s.number FROM space_table s LOOP
                EXECUTE format('DELETE FROM %I WHERE chunk_key = ANY ($1)',
                               format('dense_%s', v_number)) USING v_keys;
            END LOOP;
            DELETE FROM chunk c WHERE c.id = ANY (v_keys);
            v_deleted := v_deleted + cardinality(v_keys);
            EXIT WHEN v_deleted >= p_limit;
        END LOOP;
        RETURN v_deleted + v_versions;
    END
    $body$
"""  # noqa: S608 - our own names

DEFINERS = {
    "seed_space(integer)": SEED_SPACE,
    "ensure_space(text, integer, text)": ENSURE_SPACE,
    "set_duty(integer, text)": SET_DUTY,
    "require_space(integer, interval)": REQUIRE_SPACE,
    "count_space(integer)": COUNT_SPACE,
    "measure_space(integer, integer)": MEASURE_SPACE,
    "spaces_due()": SPACES_DUE,
    "space_next(integer, integer)": SPACE_NEXT,
    "space_backlog()": SPACE_BACKLOG,
    "live_chunks()": LIVE_CHUNKS,
    "retry_space(integer)": RETRY_SPACE,
    "drop_space(integer)": DROP_SPACE,
    "spread_version(text, text, bigint, bigint)": SPREAD_VERSION,
}


def upgrade() -> None:
    """Create tables and functions; only the runtime role may execute the definers."""
    for statement in TABLES:
        op.execute(statement)
    for signature, statement in DEFINERS.items():
        op.execute(statement)
        op.execute(f"REVOKE ALL ON FUNCTION retrieval.{signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION retrieval.{signature} TO citemesh_retrieval")
    op.execute(ENSURE_SPACE_BEFORE)
    op.execute(COLLECT_GARBAGE)
