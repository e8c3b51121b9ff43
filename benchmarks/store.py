"""Key-value calls as a plugin feels them; lost updates; a flooding neighbour. Source: ADR-0047."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile

from benchmarks.harness import Bench, Cell, Mark, Subject
from benchmarks.references import timed

__all__ = ["MARKS", "NAME", "TITLE", "DirectSql", "measure"]

NAME = "store"
TITLE = "Key-value store, everything pinned to one core"
MARKS = (
    Mark(key="get_cached_over_call", limit=2, about="get that the host's cache answers ÷ call"),
    Mark(key="get_over_call", limit=4, about="get from SQLite ÷ call"),
    Mark(key="lost_updates", limit=0, about="updates lost by 8 writers"),
    Mark(key="polite_p99_over_alone", limit=3, about="p99 of a polite plugin, beside a flooding one ÷ alone"),
)
_SUBJECTS = (
    Subject("SQL", "benchmarks.store:DirectSql"),
    Subject("call", "benchmarks.subject:AsyncCall", ours=True),
    Subject("keeper", "benchmarks.subject:Keepers", ours=True),
    Subject("writers", "benchmarks.subject:Keepers", {"concurrency": 8}, ours=True),
    Subject("neighbours", "benchmarks.subject:Keepers", {"copies": 2, "concurrency": 8}, ours=True),
)


def measure(bench: Bench) -> None:
    """Measure reads, changes, and what neighbours and other writers do to each other."""
    count = {"count": bench.count(600)}
    cells = [
        Cell("call", "call", args=count),
        Cell("get, in the host's cache", "keeper", "gets", count),
        Cell("get, from SQLite", "keeper", "cold_gets", count),
        Cell("set", "keeper", "sets", count),
        Cell("compare-and-set", "keeper", "swaps", count),
        Cell("direct SQL, get", "SQL", "gets", count),
        Cell("direct SQL, set", "SQL", "sets", count),
        Cell("updates lost by 8 writers", "writers", "lost_updates", {"writers": 8, "count": bench.count(100)}, "updates", max),
        Cell("set by a polite plugin, alone", "neighbours", "polite", count),
        Cell("set by a polite plugin, beside a flooding one", "neighbours", "polite_beside_flood", count),
    ]
    with bench.seats(_SUBJECTS, pinned=True) as seats:
        bench.interleave(seats, cells)
    call = bench.value("call")
    bench.ratio("get_cached_over_call", bench.value("get, in the host's cache"), call)
    bench.ratio("get_over_call", bench.value("get, from SQLite"), call)
    bench.ratio("lost_updates", bench.value("updates lost by 8 writers", percentile="p99"))
    alone = bench.value("set by a polite plugin, alone", percentile="p99")
    bench.ratio("polite_p99_over_alone", bench.value("set by a polite plugin, beside a flooding one", percentile="p99"), alone)
    # On a busy machine p99 is the machine's more than ours, alone as well; the median is not.
    alone = bench.value("set by a polite plugin, alone")
    bench.ratio("polite_p50_over_alone", bench.value("set by a polite plugin, beside a flooding one"), alone)


class DirectSql:
    """The same value in the same SQLite mode, in this very process: what the disk and SQL alone cost."""

    def start(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="bench-")
        self.database = sqlite3.connect(f"{self.folder}/kv.sqlite", isolation_level=None)
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("PRAGMA synchronous = NORMAL")
        self.database.execute("CREATE TABLE kv (plugin TEXT, key TEXT, value BLOB, PRIMARY KEY (plugin, key)) WITHOUT ROWID")
        self.value = json.dumps({"note": "a value of some length, as plugins keep them", "count": 1, "tags": ["a", "b"]}).encode()
        self.sets(1)

    def sets(self, count: int) -> list[float]:
        sql, row = "INSERT OR REPLACE INTO kv VALUES (?, ?, ?)", ("keeper", "written", self.value)
        return timed(lambda: self.database.execute(sql, row), count)

    def gets(self, count: int) -> list[float]:
        sql, key = "SELECT value FROM kv WHERE plugin = ? AND key = ?", ("keeper", "written")
        return timed(lambda: self.database.execute(sql, key).fetchone(), count)

    def close(self) -> None:
        self.database.close()
        shutil.rmtree(self.folder, ignore_errors=True)
