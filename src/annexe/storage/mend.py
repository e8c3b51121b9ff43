"""Rebuild a damaged database file from what can still be read of it.

Run by a person, with the host stopped: ``python -m annexe.storage.mend FILE``. (Not the ``.recover`` of the sqlite3 program: where that is
built without the needed part, as Debian's is, it yields an empty database and says so only in passing.)

* The damaged file is kept, as ``FILE.damaged``. It is moved away only when the new one is complete.
* Each table is read from both ends up to the damage, so that one damaged page costs the rows on it and not those behind it.

Source: ADR-0020.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Table, func, insert, select

from annexe.errors import StorageError
from annexe.storage.database import Database
from annexe.storage.failures import FAILED, sealing
from annexe.storage.migrate import Schema
from annexe.storage.tables import HOST_SCHEMA, KV, KV_SCHEMA, KV_USAGE

__all__ = ["main", "mend"]

_SCHEMAS = {"annexe.sqlite3": HOST_SCHEMA, "kv.sqlite3": KV_SCHEMA}


def mend(path: Path, *, schema: Schema) -> dict[str, int]:
    """Put a new file in the place of a damaged one.

    Args:
        path: The damaged file; nobody else may have it open.
        schema: What it holds.

    Returns:
        How many rows of each table are in the new file.

    Raises:
        StorageError: The new file could not be made, or an earlier damaged one is still kept; the old file is where it was.
    """
    kept, new = Path(f"{path}.damaged"), Path(f"{path}.mended")
    if kept.exists():
        raise StorageError(f"{kept} is in the way: move it elsewhere, then try again.", file=str(path), reason=FAILED)
    new.unlink(missing_ok=True)
    database = Database.open(new, schema=schema)
    with closing(database), closing(sqlite3.connect(path)) as old:
        rows = {table.name: _copy(old, database, table) for table in schema.metadata.sorted_tables if table is not KV_USAGE}
        if schema is KV_SCHEMA:
            _count_usage(database)
    with sealing(path):
        # The log first: beside the new file it would be applied to pages it was not written for.
        for side in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                Path(f"{path}{side}").replace(f"{kept}{side}")
        new.replace(path)
    return rows


def main(arguments: list[str]) -> str:
    """Mend the file named on the command line; return what to tell the person."""
    if len(arguments) != 1 or (path := Path(arguments[0])).name not in _SCHEMAS or not path.is_file():
        return f"usage: python -m annexe.storage.mend FILE, where FILE is {' or '.join(_SCHEMAS)} in a state directory"
    rows = mend(path, schema=_SCHEMAS[path.name])
    listed = ", ".join(f"{count} of {table}" for table, count in rows.items())
    return f"{path} is made anew with the rows that could be read: {listed}. The damaged file is kept as {path}.damaged"


def _copy(old: sqlite3.Connection, database: Database, table: Table) -> int:
    names = [column.name for column in table.columns]
    statement = f"INSERT OR IGNORE INTO {table.name} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608  (names of ours)
    with database.begin() as connection:
        for direction in ("ASC", "DESC"):
            for row in _readable(old, f"SELECT {', '.join(names)} FROM {table.name} ORDER BY rowid {direction}"):  # noqa: S608  (names of ours)
                connection.exec_driver_sql(statement, row)
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def _readable(old: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    with suppress(sqlite3.Error):
        yield from old.execute(query)


def _count_usage(database: Database) -> None:
    held = select(KV.c.plugin, func.sum(KV.c.size), func.count()).group_by(KV.c.plugin)
    with database.begin() as connection:
        connection.execute(insert(KV_USAGE).from_select(["plugin", "used_bytes", "key_count"], held))


if __name__ == "__main__":
    print(main(sys.argv[1:]))  # noqa: T201  (a program of its own: it must work when the host cannot start)
