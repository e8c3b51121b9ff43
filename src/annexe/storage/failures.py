"""Turn what SQLite, SQLAlchemy and the codec raise into :class:`StorageError`.

Every error names the file, says in ``reason`` which of a few cases it is, and, where a person can mend it, holds the command.

Source: issue "bad input gets a clear error"; SQLite result codes, https://sqlite.org/rescode.html.
"""

from __future__ import annotations

import shlex
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import MsgspecError
from sqlalchemy.exc import SQLAlchemyError

from annexe.errors import StorageError

__all__ = ["DAMAGED", "FAILED", "FULL", "LOCKED", "mending_command", "sealing", "storage_error"]

DAMAGED = "damaged"
FULL = "full"
LOCKED = "locked"
FAILED = "failed"

# Extended result codes begin with the name of the primary one: SQLITE_CORRUPT_INDEX, SQLITE_BUSY_SNAPSHOT.
_REASONS = (
    ("SQLITE_CORRUPT", DAMAGED),
    ("SQLITE_NOTADB", DAMAGED),
    ("SQLITE_FULL", FULL),
    ("SQLITE_BUSY", LOCKED),
    ("SQLITE_LOCKED", LOCKED),
)


@contextmanager
def sealing(path: Path) -> Iterator[None]:
    """Run a block that works on the database at ``path``.

    Raises:
        StorageError: For anything the database, its driver, the operating system or the codec of a stored value raised.
    """
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, MsgspecError, OSError) as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: Exception) -> StorageError:
    """Return the :class:`StorageError` for ``error``: ``file``, ``reason``, and ``command`` where one mends it."""
    cause = getattr(error, "orig", None) or error
    reason = _reason(cause)
    said = str(cause) or type(cause).__name__
    if reason == DAMAGED:
        command = mending_command(path)
        return StorageError(
            f"the database {path} is damaged ({said}). Stop the host, then mend it with: {command}",
            file=str(path),
            reason=reason,
            command=command,
        )
    if reason == FULL:
        text = f"no room is left for the database {path} ({said}); nothing was written. Make room on its disk and try again."
    elif reason == LOCKED:
        text = f"another process holds the database {path} ({said}); nothing was written. Find it with: fuser -v {shlex.quote(str(path))}"
    else:
        text = f"the database {path} could not be used ({said})."
    return StorageError(text, file=str(path), reason=reason)


def mending_command(path: Path) -> str:
    """Return the shell command that rebuilds a damaged database file from what can be read of it."""
    return f"{shlex.quote(sys.executable)} -m annexe.storage.mend {shlex.quote(str(path))}"


def _reason(cause: BaseException) -> str:
    if isinstance(cause, MsgspecError):
        return DAMAGED
    name = getattr(cause, "sqlite_errorname", "")
    return next((reason for prefix, reason in _REASONS if name.startswith(prefix)), FAILED)
