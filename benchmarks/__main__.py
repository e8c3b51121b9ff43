"""``python -m benchmarks [NAME ...]``: run benchmarks, print their tables, write their results."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from benchmarks import environment
from benchmarks.harness import Bench, verdict

if TYPE_CHECKING:
    from rich.console import Console

NAMES = ("call", "throughput", "hooks", "services", "store", "start", "memory", "scale", "payload", "reload")


def main() -> int:
    """Return 1 when a row of annexe's own could not be measured; a missed mark is printed, not an error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure annexe beside its peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to run: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="two short rounds: shows that it runs, not how fast")
    parser.add_argument("--references-only", action="store_true", help="the peers alone")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(NAMES)):
        parser.error(f"expected one of {', '.join(NAMES)}, got {', '.join(unknown)}")
    if Path(sys.prefix) != environment.PYTHON.parent.parent:
        if environment.main():
            return 1
        os.execv(environment.PYTHON, [str(environment.PYTHON), "-m", "benchmarks", *sys.argv[1:]])
    from rich.console import Console

    console, failed = Console(), False
    for name in options.names or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        bench = Bench(name=name, quick=options.quick, references_only=options.references_only)
        module.measure(bench)
        draw(console, module, bench)
        console.print(f"written to {bench.save()}\n", soft_wrap=True)
        failed = failed or bench.failed
    return int(failed)


def draw(console: Console, module: ModuleType, bench: Bench) -> None:
    """Print the rows, then each declared mark with what was measured."""
    from rich.table import Table

    rows = Table("what", "unit", title=module.TITLE, title_justify="left")
    for column in ("p50", "p99", "n"):
        rows.add_column(column, justify="right")
    for row in bench.rows:
        rows.add_row(row.what, row.unit, figure(row.p50), figure(row.p99), str(row.n))
    marks = Table("mark", "asked", "measured", "", title="Marks", title_justify="left")
    for mark in module.MARKS:
        asked = f"{'≥' if mark.at_least else '≤'} {mark.limit:g}"
        marks.add_row(mark.about, asked, figure(bench.ratios.get(mark.key)), verdict(mark, bench.ratios))
    for table in (rows, marks):
        console.print(table)
    if bench.quick:
        console.print("A quick run: too short to judge anything by.")


def figure(value: float | None) -> str:
    """Return a figure with three digits that count, and thousands apart."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
