"""The key-value store's statements: written in SQLAlchemy Core, compiled once, run on the driver.

Compiling once makes one operation five times faster than executing through SQLAlchemy. The order of each statement's
arguments is declared beside it, and checked when it is compiled.

Source: ADR-0021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast, final

from sqlalchemy import (
    BindParameter,
    ClauseElement,
    ColumnElement,
    Dialect,
    and_,
    bindparam,
    delete,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.sql.compiler import SQLCompiler

from annexe.storage.tables import KV, KV_USAGE

__all__ = ["KvStatements"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KvStatements:
    """SQL texts with their arguments in the order named in each comment."""

    read: str  # plugin, key
    insert: str  # plugin, key, value, size, expires_at
    update: str  # value, size, expires_at, plugin, key
    delete: str  # plugin, key
    list: str  # plugin, from, after, end, now, limit
    expired: str  # now, limit
    expired_of: str  # plugin, now, limit
    read_usage: str  # plugin
    insert_usage: str  # plugin, used_bytes, key_count
    update_usage: str  # used_bytes, key_count, plugin

    @classmethod
    def compile(cls, dialect: Dialect) -> KvStatements:
        """Compile for one kind of database."""

        def sql(statement: ClauseElement, *names: str) -> str:
            compiled = cast(SQLCompiler, statement.compile(dialect=dialect))
            if compiled.positiontup != list(names):
                raise RuntimeError(f"arguments of {compiled}: expected the order {names}, got {compiled.positiontup}")
            return str(compiled)

        def named(*names: str) -> dict[str, BindParameter[Any]]:
            return {name: bindparam(name) for name in names}

        plugin, limit, now = named("p", "limit", "now").values()
        # SQLite's dialect adds an offset to every limit; written out, it needs no argument.
        start: ColumnElement[int] = literal_column("0")
        pair = and_(KV.c.plugin == plugin, KV.c.key == bindparam("k"))
        written = named("value", "size", "expires_at")
        counted = named("used_bytes", "key_count")
        in_range = and_(KV.c.plugin == plugin, KV.c.key >= bindparam("from"), KV.c.key > bindparam("after"), KV.c.key < bindparam("end"))
        alive = or_(KV.c.expires_at.is_(None), KV.c.expires_at > now)
        expired = select(KV.c.plugin, KV.c.key, KV.c.size)
        by_age = KV.c.expires_at
        usage_of = KV_USAGE.c.plugin == plugin
        return cls(
            read=sql(select(KV.c.value, KV.c.size, KV.c.expires_at).where(pair), "p", "k"),
            insert=sql(insert(KV).values(plugin=plugin, key=bindparam("k"), **written), "p", "k", *written),
            update=sql(update(KV).where(pair).values(**written), *written, "p", "k"),
            delete=sql(delete(KV).where(pair), "p", "k"),
            list=sql(
                select(KV.c.key).where(in_range, alive).order_by(KV.c.key).limit(limit).offset(start),
                "p",
                "from",
                "after",
                "end",
                "now",
                "limit",
            ),
            expired=sql(expired.where(by_age <= now).order_by(by_age).limit(limit).offset(start), "now", "limit"),
            expired_of=sql(
                expired.where(KV.c.plugin == plugin, by_age <= now).order_by(by_age).limit(limit).offset(start), "p", "now", "limit"
            ),
            read_usage=sql(select(KV_USAGE.c.used_bytes, KV_USAGE.c.key_count).where(usage_of), "p"),
            insert_usage=sql(insert(KV_USAGE).values(plugin=plugin, **counted), "p", *counted),
            update_usage=sql(update(KV_USAGE).where(usage_of).values(**counted), *counted, "p"),
        )
