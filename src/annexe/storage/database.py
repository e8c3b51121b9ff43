"""One SQLite file and the one connection to it.

* Write-ahead log, ``synchronous=NORMAL``: what was committed survives the death of the process; the last commits before a power
  cut may be missing, but the file is whole.
* Every transaction begins with ``BEGIN IMMEDIATE``. The driver's own mode begins only at the first write, so that two who read and
  then write lose one of the updates without any error.
* The file is readable and writable by its owner alone.
* One thread at a time. Several processes, or several open databases in one process, may share a file.

Source: ADR-0020; https://sqlite.org/wal.html.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any, cast, final

import msgspec
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from annexe.errors import StorageError
from annexe.storage.failures import FAILED, sealing
from annexe.storage.migrate import Schema, bring_up_to_date

__all__ = ["Database"]

_BUSY_TIMEOUT_S = 10.0
_LOOK_AGAIN_S = 0.01
_PAGE_BYTES = 4096
_WAL_KEPT_BYTES = 16 * 1024 * 1024


@final
class Database:
    """An open database, its tables at the revision this code knows.

    Attributes:
        path: The file.
        connection: SQLAlchemy's connection, for statements inside :meth:`begin`.
    """

    def __init__(self, path: Path, engine: Engine, connection: Connection) -> None:
        self.path = path
        self.connection = connection
        self._engine = engine

    @classmethod
    def open(cls, path: Path, *, schema: Schema, max_bytes: int | None = None) -> Database:
        """Open the file, make it if it is missing, and bring its tables up to date.

        Args:
            path: The file; its folder is made, for the owner alone, if it is missing.
            schema: Which tables it holds.
            max_bytes: The file never grows beyond this; ``None`` for no limit but the disk's.

        Raises:
            StorageError: It cannot be opened, is damaged, or was written by a newer annexe.
        """
        with sealing(path):
            _make_private_file(path)
            engine = _engine_for(path, max_bytes=max_bytes)
            try:
                database = cls(path, engine, engine.connect())
            except BaseException:
                engine.dispose()
                raise
        try:
            with database.begin() as connection:
                bring_up_to_date(connection, schema=schema, path=path)
        except BaseException:
            database.close()
            raise
        return database

    @property
    def driver(self) -> sqlite3.Connection:
        """The driver's own connection, in autocommit mode: whoever uses it begins and commits by statements."""
        return cast(sqlite3.Connection, self.connection.connection.driver_connection)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Hold the write lock for one transaction: committed at the end, rolled back if the block raises.

        Raises:
            StorageError: The database could not be read or written, or another process held it for too long.
        """
        with sealing(self.path), self.connection.begin():
            yield self.connection

    def close(self) -> None:
        """Close the connection; the write-ahead log is folded into the file if nobody else has it open."""
        self.connection.close()
        self._engine.dispose()


def _make_private_file(path: Path) -> None:
    """Make the file before SQLite does: it would use the umask, and gives its side files the mode of the main one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A link planted under this name must not make us open, or change the mode of, a file elsewhere.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != 0o600:
            os.chmod(path, 0o600)  # noqa: PTH101  (the descriptor is open; the mode of the same file is meant)
    finally:
        os.close(descriptor)


def _write_ahead(driver: sqlite3.Connection) -> str:
    """Switch to a write-ahead log and return the mode the file is in.

    SQLite does not always wait for others that switch at the same moment, whatever the timeout says: so that is done here.
    """
    deadline_s = monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            mode: str = driver.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError:
            if monotonic() > deadline_s:
                raise
            sleep(_LOOK_AGAIN_S)
        else:
            return mode


def _engine_for(path: Path, *, max_bytes: int | None) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        # One connection is taken once and kept: a pool would only hide which thread has it.
        poolclass=NullPool,
        connect_args={"timeout": _BUSY_TIMEOUT_S, "check_same_thread": False, "isolation_level": None},
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
    )

    def prepare(driver: Any, _record: object) -> None:
        mode = _write_ahead(driver)
        if mode != "wal":
            # A network file system: the promises above would not hold there.
            raise StorageError(f"{path} cannot have a write-ahead log; put it on a local disk.", file=str(path), reason=FAILED)
        driver.execute("PRAGMA synchronous = NORMAL")
        driver.execute("PRAGMA foreign_keys = ON")
        driver.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}")
        if max_bytes is not None:
            driver.execute(f"PRAGMA max_page_count = {max(1, max_bytes // _PAGE_BYTES)}")

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", begin)
    return engine
