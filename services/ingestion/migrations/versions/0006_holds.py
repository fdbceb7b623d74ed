"""How often a version was held because something it needs was away: it rests longer each time."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the counter."""
    op.execute("ALTER TABLE ingestion.document_version ADD COLUMN holds integer NOT NULL DEFAULT 0")
