"""What a version's project had chosen when it was queued, so that every attempt cuts alike."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; NULL is the service's default."""
    op.execute(
        "ALTER TABLE ingestion.document_version"
        " ADD COLUMN chunk_tokens integer, ADD COLUMN chunk_overlap_tokens integer"
    )
