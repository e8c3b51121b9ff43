"""When plugins last used which of their rights, as far as the host sees it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from sqlalchemy import delete, insert, select

from annexe.storage.database import Database
from annexe.storage.tables import RIGHT_USES

__all__ = ["RightUsesTable"]


@final
class RightUsesTable:
    """One row for each plugin and right that was ever used. Every method raises StorageError when the store fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, used: Iterable[tuple[str, str]], *, now_s: float) -> None:
        """Keep that these were used, in one transaction.

        Args:
            used: Pairs of plugin and right.
            now_s: Unix seconds.
        """
        rows = [{"plugin": plugin, "right": right, "last_used_at": now_s} for plugin, right in used]
        if not rows:
            return
        with self._database.begin() as connection:
            for row in rows:
                connection.execute(delete(RIGHT_USES).where(RIGHT_USES.c.plugin == row["plugin"], RIGHT_USES.c.right == row["right"]))
            connection.execute(insert(RIGHT_USES), rows)

    def of(self, plugin: str) -> dict[str, float]:
        """Return when a plugin last used what, in Unix seconds."""
        with self._database.begin() as connection:
            rows = connection.execute(select(RIGHT_USES).where(RIGHT_USES.c.plugin == plugin)).all()
        return {row.right: row.last_used_at for row in rows}
