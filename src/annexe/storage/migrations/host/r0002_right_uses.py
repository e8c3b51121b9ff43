"""When each right was last used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "right_uses",
        sa.Column("plugin", sa.String(64), nullable=False),
        sa.Column("right", sa.Text(), nullable=False),
        sa.Column("last_used_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("plugin", "right", name="pk_right_uses"),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("right_uses")
