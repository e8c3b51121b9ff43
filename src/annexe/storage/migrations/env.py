"""What Alembic runs to reach the database: a script, loaded by Alembic alone.

The connection, inside its transaction, and the tables come from :func:`annexe.storage.migrate.bring_up_to_date`.
"""

from __future__ import annotations

from alembic import context

_attributes = context.config.attributes
context.configure(
    connection=_attributes["connection"],
    target_metadata=_attributes["metadata"],
    # SQLite cannot alter most of a table in place: Alembic makes a new one and copies.
    render_as_batch=True,
)
context.run_migrations()
