"""The dense index in service: a wider beam for deep lists, fewer lookups, room to be kept.

- Asked for more than 50 neighbours, the index is walked with a beam twice as wide as
  what is asked for (it was 100 whatever was asked).
- A lexical candidate that the dense list holds was checked there already: measured
  with 15 of 50 in common, 0.15 ms of a statement of 1.35 ms.
- Statistics and vacuum follow a fixed number of changes rather than a fifth of a
  table that may hold millions: every vacuum walks the whole vector index.
- `dense_index` tells operators (`citemesh reindex --space`) which index is whose.
"""

from importlib import import_module

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

before = import_module("services.retrieval.migrations.versions.0002_spaces_and_search")

# What follows the rankings of 0002 stays as it is; only how the words are checked changes.
OLD_WORDS = before.ANSWER[: before.ANSWER.index("RETURN QUERY SELECT 0")]
WORDS = f"""
        SELECT array_agg(p.key ORDER BY p.place) INTO v_words
        FROM unnest(p_keys) WITH ORDINALITY AS p (key, place)
        WHERE p.key = ANY (v_keys) OR EXISTS (
            SELECT FROM (
                SELECT c.document_id, c.version FROM retrieval.chunk c
                WHERE c.id = p.key AND c.project_id = p_project OFFSET 0
            ) c
            CROSS JOIN LATERAL (
                SELECT FROM retrieval.document d
                WHERE d.project_id = p_project AND d.document_id = c.document_id
                  AND d.live_version = c.version AND {before.VISIBLE} OFFSET 0
            ) d
        );
        """  # noqa: S608 - our own names

DEFINE = "CREATE FUNCTION retrieval.define_search"
OLD_WALK = "SELECT array_agg(x.chunk_key ORDER BY x.distance, x.chunk_key),"
WALK = f"""
        IF p_depth > 50 THEN
            PERFORM set_config('hnsw.ef_search', least(1000, 2 * p_depth)::text, true);
        END IF;
        {OLD_WALK}"""

# Which vector index belongs to which space.
DENSE_INDEX = """
    CREATE VIEW retrieval.dense_index AS
    SELECT s.space, s.dimensions, t.oid::regclass::text AS table_name,
           i.oid::regclass::text AS index_name, x.indisvalid AS valid,
           greatest(t.reltuples, 0)::bigint AS rows, pg_relation_size(i.oid) AS bytes
    FROM retrieval.space_table s
    JOIN pg_class t ON t.oid = to_regclass(format('retrieval.dense_%s', s.number))
    JOIN pg_index x ON x.indrelid = t.oid
    JOIN pg_class i ON i.oid = x.indexrelid
    JOIN pg_am a ON a.oid = i.relam AND a.amname = 'hnsw'
"""

# Counted in rows: a scale factor would let a million rows wait for 200,000 dead ones.
KEEPING = (
    "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, "
    "autovacuum_vacuum_insert_scale_factor = 0.5, "
    "autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000"
)


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """The text with each part replaced; every part must be there."""
    for old, new in pairs:
        if old not in text:
            raise ValueError(f"0002 holds no {old[:60]!r}")
        text = text.replace(old, new)
    return text


def upgrade() -> None:
    """Replace the functions, for the spaces that exist too."""
    again = ("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    op.execute(replaced(before.SEARCH_LEXICAL, again, (OLD_WORDS, WORDS)))
    walk = replaced(before.APPROXIMATE, (OLD_WALK, WALK))
    op.execute(
        replaced(
            before.DEFINE_SEARCH,
            (DEFINE, DEFINE.replace("CREATE", "CREATE OR REPLACE")),
            (before.APPROXIMATE, walk),
            (OLD_WORDS, WORDS),
        )
    )
    grants = "EXECUTE format('GRANT SELECT"
    keep = f"EXECUTE format('ALTER TABLE retrieval.%I SET ({KEEPING})', t);\n        "
    op.execute(replaced(before.DEFINE_TABLE, again, (grants, keep + grants)))
    op.execute(
        "DO $do$ DECLARE s record; BEGIN "  # noqa: S608 - our own names
        "FOR s IN SELECT * FROM retrieval.space_table LOOP "
        "PERFORM retrieval.define_search(s.number, s.dimensions); "
        f"EXECUTE format('ALTER TABLE retrieval.%I SET ({KEEPING})', "
        "format('dense_%s', s.number)); END LOOP; END $do$"
    )
    op.execute(DENSE_INDEX)
