"""Bring a database's tables to the revision this code knows.

* The stamped revision is read first and compared with a constant: Alembic, which is slow to load, is imported only when there is
  something to do.
* Revisions are numbers of four digits, in order. A stamp that is higher than ours, or not one of ours, is refused, never guessed at.
* Runs inside the caller's transaction: a migration that fails or is interrupted leaves the old tables.

Source: ADR-0020.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from sqlalchemy import Connection, MetaData, text

from annexe.errors import StorageError
from annexe.storage.failures import FAILED

__all__ = ["Schema", "bring_up_to_date"]

_MIGRATIONS = Path(__file__).parent / "migrations"
_REVISION_DIGITS = 4


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The tables of one database.

    Attributes:
        name: Folder of its migrations under ``migrations/``.
        metadata: Its tables as they are after the last migration.
        revision: The last migration, four digits.
    """

    name: str
    metadata: MetaData
    revision: str


def bring_up_to_date(connection: Connection, *, schema: Schema, path: Path) -> None:
    """Run the migrations that are missing.

    Args:
        connection: Inside a transaction that holds the write lock.
        schema: What the database shall hold.
        path: Its file, for the error text.

    Raises:
        StorageError: The file was written by a newer annexe, or is not annexe's; ``found_revision``, ``known_revision``.
    """
    stamped = _stamped_revision(connection)
    if stamped == schema.revision:
        return
    if stamped is not None and not _is_older(stamped, schema.revision):
        raise StorageError(
            f"the database {path} has {schema.name} tables of revision {stamped}, expected {schema.revision} or older: "
            "a newer annexe wrote it. Upgrade annexe: pip install --upgrade annexe",
            file=str(path),
            reason=FAILED,
            found_revision=stamped,
            known_revision=schema.revision,
        )
    _upgrade(connection, schema)


def _stamped_revision(connection: Connection) -> str | None:
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def _is_older(stamped: str, known: str) -> bool:
    return len(stamped) == _REVISION_DIGITS and stamped.isdecimal() and stamped < known


def _upgrade(connection: Connection, schema: Schema) -> None:
    # Imported here because a database that is up to date, the usual case, must not pay for it.
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection, "metadata": schema.metadata})
    # Percent signs are interpolation to the configuration parser; newline is the one separator no path of ours holds.
    config.set_main_option("path_separator", "newline")
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("version_locations", str(_MIGRATIONS / schema.name).replace("%", "%%"))
    command.upgrade(config, schema.revision)
