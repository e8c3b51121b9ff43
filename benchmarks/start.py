"""From an installed plugin at rest to ready, and to its first answer. Source: ADR-0047."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.harness import Bench, Cell, Mark, Subject, reference
from benchmarks.references import timed

__all__ = ["MARKS", "NAME", "TITLE", "Bare", "measure"]

NAME = "start"
TITLE = "Starting a plugin, all bytecode compiled"
MARKS = (
    Mark(key="cold_ready_over_python", limit=2.8, about="cold, to ready ÷ bare interpreter"),
    Mark(key="warm_ready_over_python", limit=0.9, about="warm (fork server), to ready ÷ bare interpreter"),
    Mark(key="sandbox_added_over_python", limit=1.3, about="what the sandbox adds ÷ bare interpreter"),
)
_SUBJECTS = (
    Subject("python -I -S -c pass", "benchmarks.start:Bare"),
    reference("pyisolate", "Pyisolate"),
    Subject("annexe", "benchmarks.subject:Starts", ours=True),
)


def measure(bench: Bench) -> None:
    """Measure starts one after the other; nothing else of the benchmark runs meanwhile."""
    cells = [
        Cell("python -I -S -c pass", "python -I -S -c pass", "starts", {"count": bench.count(20)}, "ms"),
        Cell("cold, to ready", "annexe", "starts", {"count": bench.count(20)}, "ms"),
        Cell("cold, to first answer", "annexe", "starts_answered", {"count": bench.count(20)}, "ms"),
        Cell("pyisolate, to first answer", "pyisolate", "starts", {"count": bench.count(4)}, "ms"),
    ]
    with bench.seats(_SUBJECTS) as seats:
        bench.interleave(seats, cells)
    bench.ratio("cold_ready_over_python", bench.value("cold, to ready"), bench.value("python -I -S -c pass"))


class Bare:
    """Starting the interpreter and nothing else: ``python -I -S -c pass``."""

    def start(self) -> None: ...

    def starts(self, count: int) -> list[float]:
        command = [sys.executable, "-I", "-S", "-c", "pass"]
        return [microseconds / 1000 for microseconds in timed(lambda: subprocess.run(command, check=True), count)]

    def close(self) -> None: ...
