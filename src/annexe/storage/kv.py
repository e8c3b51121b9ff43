"""The key-value store of the plugins: a database of its own, so that no plugin can make the host's slow or full.

* Every operation runs inside a transaction that holds the write lock, and checks before it writes: one that raises
  an error of the plugin's own making has changed nothing, and the others in the same transaction go on.
* A key past its time is never returned; it is deleted when it is met, when its plugin needs the room, and by :meth:`KvTransaction.sweep`.
* What a plugin holds, keys and values, is counted in the same transaction that changes it.
* Values are bytes made by :func:`annexe.storage.kv_values.encode_value`; keys were checked by ``check_key``.

Source: feature HS1; ADR-0021; docs/reference/kv.md.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

from annexe.errors import InvalidParamsError, QuotaExceededError
from annexe.storage.database import Database
from annexe.storage.failures import sealing
from annexe.storage.kv_statements import KvStatements
from annexe.storage.kv_values import decode_value, encode_value, prefix_end
from annexe.storage.tables import KV_SCHEMA

__all__ = ["MAX_KEYS", "KeyPage", "KvEntry", "KvSpace", "KvStore", "KvTransaction", "KvUsage"]

MAX_KEYS = 100_000
# How many expired keys one write may clear away to make room: more would hold up everybody else.
_CLEARED_AT_ONCE = 1000
_INT64 = 1 << 63


class KvEntry(NamedTuple):
    """A stored value: its bytes, and the Unix time in seconds at which it ends, if it does."""

    value: bytes
    expires_at: float | None


class KeyPage(NamedTuple):
    """Keys in the order of code points, and the ``after`` that gives the next page, if there is one."""

    keys: list[str]
    next: str | None


@final
@dataclass(slots=True)
class KvUsage:
    """What one plugin holds: bytes of keys and values, and number of keys; expired ones count until they are deleted."""

    bytes: int
    keys: int


@final
class KvStore:
    """An open key-value database; one thread at a time. Several may be open on one file."""

    def __init__(self, database: Database) -> None:
        self.path = database.path
        self._database = database
        self._driver = database.driver
        self._statements = KvStatements.compile(database.connection.dialect)

    @classmethod
    def open(cls, path: Path, *, max_bytes: int | None = None) -> KvStore:
        """Open the database file, making or migrating it where needed.

        Args:
            path: The file; its folder is made, for the owner alone, if it is missing.
            max_bytes: The file never grows beyond this; ``None`` for no limit but the disk's.

        Raises:
            StorageError: It cannot be opened, is damaged, or was written by a newer annexe.
        """
        return cls(Database.open(path, schema=KV_SCHEMA, max_bytes=max_bytes))

    @contextmanager
    def begin(self, *, now_s: float) -> Iterator[KvTransaction]:
        """Hold the write lock for some operations: all committed at the end, or none if the block raises.

        Args:
            now_s: Unix seconds; keys that end at or before it are gone.

        Raises:
            StorageError: The database could not be read or written, or another process held it for too long.
        """
        driver = self._driver
        with sealing(self.path):
            driver.execute("BEGIN IMMEDIATE")
            try:
                transaction = KvTransaction(driver, self._statements, now_s=now_s)
                yield transaction
                transaction.write_usage()
                driver.execute("COMMIT")
            finally:
                # Still open: the block raised, or the commit failed. (On some failures SQLite has rolled back by itself.)
                if driver.in_transaction:
                    driver.execute("ROLLBACK")

    def close(self) -> None:
        """Close the database."""
        self._database.close()


@final
class KvTransaction:
    """Operations under one write lock; made by :meth:`KvStore.begin`."""

    def __init__(self, driver: sqlite3.Connection, statements: KvStatements, *, now_s: float) -> None:
        self.now_s = now_s
        self.statements = statements
        self.execute = driver.execute
        self._before: dict[str, tuple[int, int] | None] = {}
        self._usage: dict[str, KvUsage] = {}

    def space(self, plugin: str, *, quota_bytes: int) -> KvSpace:
        """Return one plugin's part of the store, for the rest of this transaction."""
        return KvSpace(self, plugin, quota_bytes)

    def usage(self, plugin: str) -> KvUsage:
        """Return what a plugin holds."""
        usage = self._usage.get(plugin)
        if usage is None:
            row = self.execute(self.statements.read_usage, (plugin,)).fetchone()
            self._before[plugin] = row
            usage = self._usage[plugin] = KvUsage(0, 0) if row is None else KvUsage(*row)
        return usage

    def sweep(self, limit: int) -> int:
        """Delete keys past their time, of any plugin, oldest first.

        Returns:
            How many were deleted; ``limit`` means that there may be more.
        """
        return self.remove_all(self.execute(self.statements.expired, (self.now_s, limit)).fetchall())

    def remove_all(self, rows: list[Any]) -> int:
        """Delete rows of (plugin, key, size); return how many."""
        for plugin, key, size in rows:
            self.remove(plugin, key, size)
        return len(rows)

    def remove(self, plugin: str, key: str, size: int) -> None:
        """Delete one pair that is there and has this size."""
        self.execute(self.statements.delete, (plugin, key))
        usage = self.usage(plugin)
        usage.bytes -= size
        usage.keys -= 1

    def write_usage(self) -> None:
        """Store what each plugin holds now; the last step before the commit."""
        for plugin, usage in self._usage.items():
            before = self._before[plugin]
            if before is None:
                self.execute(self.statements.insert_usage, (plugin, usage.bytes, usage.keys))
            elif before != (usage.bytes, usage.keys):
                self.execute(self.statements.update_usage, (usage.bytes, usage.keys, plugin))


@final
class KvSpace:
    """One plugin's pairs within one transaction."""

    __slots__ = ("_plugin", "_quota_bytes", "_transaction")

    def __init__(self, transaction: KvTransaction, plugin: str, quota_bytes: int) -> None:
        self._transaction = transaction
        self._plugin = plugin
        self._quota_bytes = quota_bytes

    def get(self, key: str) -> KvEntry | None:
        """Return what is kept under ``key``, or ``None``."""
        row = self._read(key)
        return None if row is None else KvEntry(row[0], row[2])

    def set(self, key: str, value: bytes, *, expires_at: float | None = None) -> None:
        """Keep a value; ``expires_at`` (Unix seconds) replaces the end the key had, ``None`` means never.

        Raises:
            QuotaExceededError: There is no room for it.
        """
        self._write(key, value, expires_at=expires_at, old=self._read(key))

    def delete(self, key: str) -> bool:
        """Remove a key; return whether it was there."""
        row = self._read(key)
        if row is not None:
            self._transaction.remove(self._plugin, key, row[1])
        return row is not None

    def increment(self, key: str, *, by: int, expires_at: float | None = None) -> KvEntry:
        """Add to an integer; a key that is not there counts from 0.

        Args:
            key: Which.
            by: What to add.
            expires_at: When it ends, for a key that is not there; one that is there keeps its own end.

        Returns:
            What is kept now.

        Raises:
            InvalidParamsError: Something else than an integer is kept there, or the sum has more than 64 bits.
            QuotaExceededError: There is no room for it.
        """
        row = self._read(key)
        count = 0 if row is None else decode_value(row[0])
        if type(count) is not int:
            raise self._not_counted(key, f"expected an integer under the key, got a {type(count).__name__}")
        count += by
        if not -_INT64 <= count < _INT64:
            raise self._not_counted(key, "expected a sum of at most 64 bits, got more")
        entry = KvEntry(encode_value(count, method="kv.increment"), expires_at if row is None else row[2])
        self._write(key, entry.value, expires_at=entry.expires_at, old=row)
        return entry

    def list(self, *, prefix: str, limit: int, after: str | None) -> KeyPage:
        """Return keys that begin with ``prefix``, at most ``limit``, beginning behind ``after``."""
        transaction = self._transaction
        # No key is empty, so that all of them are behind "".
        bounds = (self._plugin, prefix, after or "", prefix_end(prefix), transaction.now_s, limit + 1)
        keys = [key for (key,) in transaction.execute(transaction.statements.list, bounds)]
        if len(keys) <= limit:
            return KeyPage(keys, None)
        return KeyPage(keys[:limit], keys[limit - 1])

    def compare_and_set(self, key: str, *, expected: bytes | None, value: bytes | None, expires_at: float | None = None) -> bool:
        """Change a key only if it is as expected.

        Args:
            key: Which.
            expected: What must be kept there; ``None``: nothing.
            value: What to keep; ``None``: remove the key.
            expires_at: As for :meth:`set`.

        Returns:
            Whether it was as expected, and so was changed.

        Raises:
            QuotaExceededError: There is no room for it.
        """
        row = self._read(key)
        if (None if row is None else row[0]) != expected:
            return False
        if value is not None:
            self._write(key, value, expires_at=expires_at, old=row)
        elif row is not None:
            self._transaction.remove(self._plugin, key, row[1])
        return True

    def _read(self, key: str) -> tuple[bytes, int, float | None] | None:
        """Return value, size and end of a key; one that is past its time is deleted and so is not there."""
        transaction = self._transaction
        row: tuple[bytes, int, float | None] | None = transaction.execute(transaction.statements.read, (self._plugin, key)).fetchone()
        if row is None or row[2] is None or row[2] > transaction.now_s:
            return row
        transaction.remove(self._plugin, key, row[1])
        return None

    def _write(self, key: str, value: bytes, *, expires_at: float | None, old: tuple[bytes, int, float | None] | None) -> None:
        transaction, plugin = self._transaction, self._plugin
        size = len(key.encode()) + len(value)
        growth_bytes, growth_keys = (size, 1) if old is None else (size - old[1], 0)
        if not self._has_room(growth_bytes, growth_keys):
            rows = transaction.execute(transaction.statements.expired_of, (plugin, transaction.now_s, _CLEARED_AT_ONCE)).fetchall()
            transaction.remove_all(rows)
            if not self._has_room(growth_bytes, growth_keys):
                raise self._full(growth_bytes)
        if old is None:
            transaction.execute(transaction.statements.insert, (plugin, key, value, size, expires_at))
        else:
            transaction.execute(transaction.statements.update, (value, size, expires_at, plugin, key))
        usage = transaction.usage(plugin)
        usage.bytes += growth_bytes
        usage.keys += growth_keys

    def _has_room(self, growth_bytes: int, growth_keys: int) -> bool:
        """Say whether a write fits; one that makes nothing larger always does, even after the quota was lowered."""
        usage = self._transaction.usage(self._plugin)
        fits_bytes = growth_bytes <= 0 or usage.bytes + growth_bytes <= self._quota_bytes
        return fits_bytes and usage.keys + growth_keys <= MAX_KEYS

    def _full(self, growth_bytes: int) -> QuotaExceededError:
        usage = self._transaction.usage(self._plugin)
        return QuotaExceededError(
            f"plugin {self._plugin!r} has no room for {growth_bytes} more bytes of keys and values: it holds {usage.bytes} of "
            f"{self._quota_bytes} bytes in {usage.keys} of {MAX_KEYS} keys. Delete some, or raise the quota of permissions.kv.",
            plugin=self._plugin,
            limit_bytes=self._quota_bytes,
            used_bytes=usage.bytes,
            wanted_bytes=growth_bytes,
            limit_keys=MAX_KEYS,
            used_keys=usage.keys,
        )

    def _not_counted(self, key: str, text: str) -> InvalidParamsError:
        return InvalidParamsError(f"kv.increment: key {key!r}: {text}.", plugin=self._plugin, method="kv.increment", param="key")
