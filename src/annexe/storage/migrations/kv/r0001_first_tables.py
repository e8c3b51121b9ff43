"""The key-value database's first tables: the pairs, and how much each plugin holds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "kv",
        sa.Column("plugin", sa.String(64), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.Float()),
        sa.PrimaryKeyConstraint("plugin", "key", name="pk_kv"),
    )
    op.create_index("ix_kv_expires_at_plugin", "kv", ["expires_at", "plugin"], sqlite_where=sa.text("expires_at IS NOT NULL"))
    op.create_table(
        "kv_usage",
        sa.Column("plugin", sa.String(64), nullable=False),
        sa.Column("used_bytes", sa.BigInteger(), nullable=False),
        sa.Column("key_count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("plugin", name="pk_kv_usage"),
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("kv_usage")
    op.drop_table("kv")
