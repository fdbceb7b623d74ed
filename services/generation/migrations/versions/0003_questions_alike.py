"""Questions of the answer cache by their vectors, for the semantic look.

`scope` is a digest of what an answer depends on besides the wording of the question, the embedding
space among it: vectors of two spaces are never compared. Rows without a vector are found exactly
only. No index on the vectors: a scope holds the questions of one state of one corpus.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    ALTER TABLE generation.answer_cache
        ADD COLUMN scope bytea, ADD COLUMN asked text, ADD COLUMN vector public.vector
    """,
    "CREATE INDEX ON generation.answer_cache (project_id, scope) WHERE scope IS NOT NULL",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
