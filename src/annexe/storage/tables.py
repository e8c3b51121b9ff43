"""The tables of both databases, as they are after the last migration.

A change here needs a new migration under ``migrations/`` and the schema's ``revision`` raised: a test compares the two.

* Times are Unix seconds as floats, because they must outlive the process.
* Every constraint has a name by convention, so that a later migration can find it on any database.

Source: ADR-0020, ADR-0021.
"""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, Text

from annexe.storage.migrate import Schema

__all__ = ["CONFIG", "EVENTS", "GRANTS", "HOST_SCHEMA", "KV", "KV_SCHEMA", "KV_USAGE", "PLUGIN_STATE", "RIGHT_USES"]

_NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

_HOST = MetaData(naming_convention=_NAMING)

PLUGIN_STATE = Table(
    "plugin_state",
    _HOST,
    Column("plugin", String(64), primary_key=True),
    Column("enabled", Boolean, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("last_failure_reason", Text),
    Column("last_failure_at", Float),
    Column("quarantined_at", Float),
    Column("quarantine_reason", Text),
)

GRANTS = Table(
    "grants",
    _HOST,
    Column("id", Integer, primary_key=True),
    Column("plugin", String(64), nullable=False, index=True),
    Column("rights", JSON, nullable=False),
    Column("digest", Text),
    Column("folder", Text),
    Column("version_range", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("granted_by", Text, nullable=False),
    Column("granted_at", Float, nullable=False),
)

CONFIG = Table(
    "config",
    _HOST,
    Column("plugin", String(64), primary_key=True),
    Column("value", JSON, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("updated_at", Float, nullable=False),
)

EVENTS = Table(
    "events",
    _HOST,
    Column("id", Integer, primary_key=True),
    Column("time", Float, nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("plugin", String(64)),
    Column("reason", Text, nullable=False),
    Column("facts", JSON, nullable=False),
    Index("ix_events_plugin_id", "plugin", "id"),
    # Ids of trimmed events are not used again: readers page by them.
    sqlite_autoincrement=True,
)

RIGHT_USES = Table(
    "right_uses",
    _HOST,
    Column("plugin", String(64), primary_key=True),
    Column("right", Text, primary_key=True),
    Column("last_used_at", Float, nullable=False),
)

HOST_SCHEMA = Schema(name="host", metadata=_HOST, revision="0002")

_KV = MetaData(naming_convention=_NAMING)

KV = Table(
    "kv",
    _KV,
    Column("plugin", String(64), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    # Of key and value together, in bytes: what counts against the quota.
    Column("size", Integer, nullable=False),
    Column("expires_at", Float),
)
# Only keys that can expire are in it: the sweep, and a full plugin looking for room, read nothing else.
Index("ix_kv_expires_at_plugin", KV.c.expires_at, KV.c.plugin, sqlite_where=KV.c.expires_at.is_not(None))

KV_USAGE = Table(
    "kv_usage",
    _KV,
    Column("plugin", String(64), primary_key=True),
    Column("used_bytes", BigInteger, nullable=False),
    Column("key_count", Integer, nullable=False),
)

KV_SCHEMA = Schema(name="kv", metadata=_KV, revision="0001")
