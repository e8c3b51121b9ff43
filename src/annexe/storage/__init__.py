"""The host's own memory: one SQLite file for the host, one for the plugins' key-value pairs.

* Everything here is synchronous. Each open store belongs to one thread at a time, chosen by the room above.
* Whatever the database raises leaves here as :class:`annexe.errors.StorageError`, naming the file.
* Nothing is imported from here by name: SQLAlchemy takes a while to load, so callers import the module they need.

Source: ADR-0020.
"""

from __future__ import annotations

__all__: list[str] = []
