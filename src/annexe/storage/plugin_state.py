"""What the host remembers of each plugin between runs: the operator's choice, failures in a row, quarantine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from sqlalchemy import insert, select, update

from annexe.storage.database import Database
from annexe.storage.tables import PLUGIN_STATE

__all__ = ["PluginStateTable", "StoredPluginState"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPluginState:
    """One plugin's row; the defaults are what a plugin never seen before has.

    Attributes:
        plugin: Its id.
        enabled: The operator's choice.
        failures: Failures in a row.
        last_failure_reason: Code or text of the last failure; kept when ``failures`` goes back to 0.
        last_failure_at: Unix seconds.
        quarantined_at: Unix seconds; ``None`` when it is not quarantined.
        quarantine_reason: Why.
    """

    plugin: str
    enabled: bool = True
    failures: int = 0
    last_failure_reason: str | None = None
    last_failure_at: float | None = None
    quarantined_at: float | None = None
    quarantine_reason: str | None = None


@final
class PluginStateTable:
    """Rows by plugin. A plugin without a row has the defaults. Every method raises StorageError when the store fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, plugin: str) -> StoredPluginState:
        """Return what is known of a plugin, or the defaults."""
        with self._database.begin() as connection:
            row = connection.execute(select(PLUGIN_STATE).where(PLUGIN_STATE.c.plugin == plugin)).one_or_none()
        return StoredPluginState(plugin=plugin) if row is None else StoredPluginState(**row._mapping)

    def all(self) -> list[StoredPluginState]:
        """Return every row, by plugin id."""
        with self._database.begin() as connection:
            rows = connection.execute(select(PLUGIN_STATE).order_by(PLUGIN_STATE.c.plugin)).all()
        return [StoredPluginState(**row._mapping) for row in rows]

    def set_enabled(self, plugin: str, enabled: bool) -> None:
        """Record the operator's choice."""
        self._change(plugin, enabled=enabled)

    def add_failure(self, plugin: str, *, reason: str, now_s: float) -> int:
        """Count one more failure in a row.

        Returns:
            Failures in a row, this one included.
        """
        counted = self._change(plugin, failures=PLUGIN_STATE.c.failures + 1, last_failure_reason=reason, last_failure_at=now_s)
        return counted.failures

    def clear_failures(self, plugin: str) -> None:
        """Start the count again: the plugin has been healthy for long enough."""
        self._change(plugin, failures=0)

    def quarantine(self, plugin: str, *, reason: str, now_s: float) -> None:
        """Keep the plugin from being launched until a person releases it."""
        self._change(plugin, quarantined_at=now_s, quarantine_reason=reason)

    def release(self, plugin: str) -> None:
        """End the quarantine and start the count of failures again."""
        self._change(plugin, quarantined_at=None, quarantine_reason=None, failures=0)

    def delete(self, plugin: str) -> None:
        """Forget the plugin."""
        with self._database.begin() as connection:
            connection.execute(PLUGIN_STATE.delete().where(PLUGIN_STATE.c.plugin == plugin))

    def _change(self, plugin: str, **values: Any) -> StoredPluginState:
        here = PLUGIN_STATE.c.plugin == plugin
        with self._database.begin() as connection:
            if connection.execute(select(PLUGIN_STATE.c.plugin).where(here)).one_or_none() is None:
                connection.execute(insert(PLUGIN_STATE).values(plugin=plugin, enabled=True, failures=0))
            connection.execute(update(PLUGIN_STATE).where(here).values(**values))
            row = connection.execute(select(PLUGIN_STATE).where(here)).one()
        return StoredPluginState(**row._mapping)
