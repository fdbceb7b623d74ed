"""A dense table of more than half a million rows is walked with a beam of 400.

Measured over 1,000,000 rows (docs/operations/dense-index.md): recall@10 .948 with 200, .972
with 400, for 2 ms; over 100,000 rows 200 finds .978.
"""

from importlib import import_module

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

first_step = import_module("services.retrieval.migrations.versions.0007_dense_index_kept")
second_step = import_module(
    "services.retrieval.migrations.versions.0008_wider_beam_for_large_tables"
)

WALK = f"""
        PERFORM set_config('hnsw.ef_search', least(1000, greatest(
            2 * p_depth,
            CASE WHEN k.reltuples > 500000 THEN 400 WHEN k.reltuples > 50000 THEN 200 ELSE 0 END
        ))::text, true)
        FROM pg_catalog.pg_class k
        WHERE k.oid = 'retrieval.dense_%1$s'::regclass
          AND (p_depth > 50 OR k.reltuples > 50000);
        {first_step.OLD_WALK}"""


def upgrade() -> None:
    second_step.redefine(WALK)
