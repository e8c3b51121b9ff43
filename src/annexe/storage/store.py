"""The host's own database: one file, one class for each table."""

from __future__ import annotations

from pathlib import Path
from typing import final

from annexe.storage.config import ConfigTable
from annexe.storage.database import Database
from annexe.storage.events import EventsTable
from annexe.storage.grants import GrantsTable
from annexe.storage.plugin_state import PluginStateTable
from annexe.storage.right_uses import RightUsesTable
from annexe.storage.tables import HOST_SCHEMA

__all__ = ["Store"]

_FILE_NAME = "annexe.sqlite3"


@final
class Store:
    """The tables of one open host database; one thread at a time.

    Attributes:
        path: The file.
        plugin_state: What is remembered of each plugin.
        grants: Which rights were granted.
        config: The plugins' configuration.
        events: What happened.
        right_uses: When rights were last used.
    """

    def __init__(self, database: Database) -> None:
        self.path = database.path
        self.plugin_state = PluginStateTable(database)
        self.grants = GrantsTable(database)
        self.config = ConfigTable(database)
        self.events = EventsTable(database)
        self.right_uses = RightUsesTable(database)
        self._database = database

    @classmethod
    def open(cls, folder: Path, *, max_bytes: int | None = None) -> Store:
        """Open the database in a state directory, making or migrating it where needed.

        Args:
            folder: The state directory; made, for the owner alone, if it is missing.
            max_bytes: The file never grows beyond this; ``None`` for no limit but the disk's.

        Raises:
            StorageError: It cannot be opened, is damaged, or was written by a newer annexe.
        """
        return cls(Database.open(folder / _FILE_NAME, schema=HOST_SCHEMA, max_bytes=max_bytes))

    def close(self) -> None:
        """Close the database."""
        self._database.close()
