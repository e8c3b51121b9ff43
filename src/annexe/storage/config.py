"""The configuration an operator gave each plugin, as written: without the schema's defaults, which may change with its version.

Whether a value fits its schema is checked in ``capabilities``, before it comes here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from sqlalchemy import insert, select, update

from annexe.errors import ConflictError
from annexe.storage.database import Database
from annexe.storage.tables import CONFIG

__all__ = ["ConfigTable", "StoredConfig"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StoredConfig:
    """One plugin's configuration.

    Attributes:
        plugin: Its id.
        value: A JSON object.
        revision: 1 for the first write, one more for each later one.
        updated_at: Unix seconds.
    """

    plugin: str
    value: Mapping[str, Any]
    revision: int
    updated_at: float


@final
class ConfigTable:
    """Configuration by plugin. Every method raises StorageError when the store fails, and so does making one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.begin() as connection:
            self._written = set(connection.execute(select(CONFIG.c.plugin)).scalars())

    def has(self, plugin: str) -> bool:
        """Say whether a plugin has one; asks no store, so that it may be called from any thread: one process alone writes here."""
        return plugin in self._written

    def get(self, plugin: str) -> StoredConfig | None:
        """Return a plugin's configuration, or ``None`` if nobody ever wrote one."""
        with self._database.begin() as connection:
            row = connection.execute(select(CONFIG).where(CONFIG.c.plugin == plugin)).one_or_none()
        return None if row is None else StoredConfig(**row._mapping)

    def put(self, plugin: str, value: Mapping[str, Any], *, expected_revision: int | None, now_s: float) -> StoredConfig:
        """Write a plugin's configuration if nobody else has written it meanwhile.

        Args:
            plugin: Whose.
            value: A JSON object.
            expected_revision: The revision the writer has seen, 0 for none; ``None`` writes in any case.
            now_s: Unix seconds.

        Returns:
            The configuration as it is now.

        Raises:
            ConflictError: The stored revision is another one.
        """
        stored = {"plugin": plugin, "value": dict(value), "updated_at": now_s}
        with self._database.begin() as connection:
            revision = connection.execute(select(CONFIG.c.revision).where(CONFIG.c.plugin == plugin)).scalar() or 0
            if expected_revision is not None and expected_revision != revision:
                raise ConflictError(
                    f"the configuration of plugin {plugin!r} has changed: expected revision {expected_revision}, got {revision}. "
                    "Read it again and repeat the change.",
                    plugin=plugin,
                    expected_revision=expected_revision,
                    actual_revision=revision,
                )
            if revision == 0:
                connection.execute(insert(CONFIG).values(revision=1, **stored))
            else:
                connection.execute(update(CONFIG).where(CONFIG.c.plugin == plugin).values(revision=revision + 1, **stored))
        self._written.add(plugin)
        return StoredConfig(revision=revision + 1, plugin=plugin, value=value, updated_at=now_s)
