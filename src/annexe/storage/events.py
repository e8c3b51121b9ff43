"""What happened, for a person to read later. Kept up to a number and an age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from sqlalchemy import Row, delete, insert, select

from annexe.storage.database import Database
from annexe.storage.tables import EVENTS

__all__ = ["EventsTable", "StoredEvent"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """One event.

    Attributes:
        id: Rises with every event and is never used again; 0 until it is stored.
        time: Unix seconds.
        kind: What happened, kebab-case.
        plugin: Id of the plugin concerned, where there is one.
        reason: Why, for a person.
        facts: Further facts, JSON-able.
    """

    id: int = 0
    time: float
    kind: str
    plugin: str | None = None
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@final
class EventsTable:
    """Events in the order they were added. Every method raises StorageError when the store fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, events: Sequence[StoredEvent]) -> None:
        """Store events, in order, in one transaction; their ``id`` is ignored."""
        rows = [
            {"time": event.time, "kind": event.kind, "plugin": event.plugin, "reason": event.reason, "facts": dict(event.facts)}
            for event in events
        ]
        if rows:
            with self._database.begin() as connection:
                connection.execute(insert(EVENTS), rows)

    def newest(self, limit: int, *, plugin: str | None = None, kind: str | None = None) -> list[StoredEvent]:
        """Return events, newest first.

        Args:
            limit: At most so many.
            plugin: Only this plugin's.
            kind: Only of this kind.
        """
        query = select(EVENTS).order_by(EVENTS.c.id.desc()).limit(limit)
        if plugin is not None:
            query = query.where(EVENTS.c.plugin == plugin)
        if kind is not None:
            query = query.where(EVENTS.c.kind == kind)
        with self._database.begin() as connection:
            rows = connection.execute(query).all()
        return [_event(row) for row in rows]

    def trim(self, *, keep_count: int, oldest_s: float) -> int:
        """Delete what is more than ``keep_count`` events back, or older than ``oldest_s`` (Unix seconds).

        Returns:
            How many were deleted.
        """
        with self._database.begin() as connection:
            last_out = connection.execute(select(EVENTS.c.id).order_by(EVENTS.c.id.desc()).offset(keep_count).limit(1)).scalar() or 0
            return connection.execute(delete(EVENTS).where((EVENTS.c.id <= last_out) | (EVENTS.c.time < oldest_s))).rowcount


def _event(row: Row[Any]) -> StoredEvent:
    return StoredEvent(**row._mapping)
