"""The host's first tables: plugin state, grants, config, events."""

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
        "plugin_state",
        sa.Column("plugin", sa.String(64), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("last_failure_reason", sa.Text()),
        sa.Column("last_failure_at", sa.Float()),
        sa.Column("quarantined_at", sa.Float()),
        sa.Column("quarantine_reason", sa.Text()),
        sa.PrimaryKeyConstraint("plugin", name="pk_plugin_state"),
    )
    op.create_table(
        "grants",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("plugin", sa.String(64), nullable=False),
        sa.Column("rights", sa.JSON(), nullable=False),
        sa.Column("digest", sa.Text()),
        sa.Column("folder", sa.Text()),
        sa.Column("version_range", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("granted_by", sa.Text(), nullable=False),
        sa.Column("granted_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_grants"),
    )
    op.create_index("ix_grants_plugin", "grants", ["plugin"])
    op.create_table(
        "config",
        sa.Column("plugin", sa.String(64), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("plugin", name="pk_config"),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("time", sa.Float(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("plugin", sa.String(64)),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_time", "events", ["time"])
    op.create_index("ix_events_plugin_id", "events", ["plugin", "id"])


def downgrade() -> None:
    """Drop the tables."""
    for table in ("events", "config", "grants", "plugin_state"):
        op.drop_table(table)
