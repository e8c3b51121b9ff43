"""Which operating-system processes this host launched, so that a later host can find what a dead one left behind.

A pid alone names nothing for long: it is used again. With the start time and the boot it names one process for ever.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import final

from sqlalchemy import Delete, delete, insert, select

from annexe.storage.database import Database
from annexe.storage.tables import LAUNCHED

__all__ = ["LaunchedTable", "StoredLaunch"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLaunch:
    """One launched process.

    Attributes:
        boot_id: Of the boot it was launched in.
        pid: Its process id.
        start_ticks: Its start time in clock ticks since boot, as the kernel tells it.
        uid: The user it runs as.
        plugin: Id of its plugin.
        instance: Which of the plugin's instances.
    """

    boot_id: str
    pid: int
    start_ticks: int
    uid: int
    plugin: str
    instance: str


@final
class LaunchedTable:
    """Launched processes not yet known to be gone. Every method raises StorageError when the store fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, launch: StoredLaunch) -> None:
        """Record a process, before it may run any plugin code."""
        values = asdict(launch)
        with self._database.begin() as connection:
            connection.execute(_same(launch))
            connection.execute(insert(LAUNCHED).values(**values))

    def remove(self, launch: StoredLaunch) -> None:
        """Forget a process that is gone; nothing happens if it is not recorded."""
        with self._database.begin() as connection:
            connection.execute(_same(launch))

    def all(self) -> list[StoredLaunch]:
        """Return every recorded process."""
        with self._database.begin() as connection:
            rows = connection.execute(select(LAUNCHED).order_by(LAUNCHED.c.boot_id, LAUNCHED.c.pid)).all()
        return [StoredLaunch(**row._mapping) for row in rows]

    def remove_other_boots(self, boot_id: str) -> int:
        """Forget processes of earlier boots: a reboot ended them all.

        Returns:
            How many there were.
        """
        with self._database.begin() as connection:
            return connection.execute(delete(LAUNCHED).where(LAUNCHED.c.boot_id != boot_id)).rowcount


def _same(launch: StoredLaunch) -> Delete:
    key = LAUNCHED.c
    return delete(LAUNCHED).where(key.boot_id == launch.boot_id, key.pid == launch.pid, key.start_ticks == launch.start_ticks)
