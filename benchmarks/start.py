"""From an installed plugin at rest to ready, and to its first answer. Source: ADR-0047."""

from __future__ import annotations

from benchmarks.harness import Bench, Cell, Mark, Subject, reference

__all__ = ["MARKS", "NAME", "TITLE", "measure"]

NAME = "start"
TITLE = "Starting a plugin, all bytecode compiled"
MARKS = (
    Mark(key="cold_ready_over_python", limit=2.8, about="cold, to ready ÷ bare interpreter, the same one"),
    Mark(key="warm_ready_over_python", limit=0.9, about="warm (fork server), to ready ÷ bare interpreter"),
    Mark(
        key="sandbox_added_over_python",
        limit=1.3,
        about="what the sandbox adds ÷ bare interpreter",
    ),
)
_SUBJECTS = (
    reference("pyisolate", "Pyisolate"),
    Subject("annexe", "benchmarks.subject:Starts", ours=True),
    Subject("annexe, warm", "benchmarks.subject:WarmStarts", ours=True),
    Subject("annexe, no walls", "benchmarks.subject:StartsWithoutWalls", ours=True),
)


def measure(bench: Bench) -> None:
    """Measure starts one after the other; nothing else of the benchmark runs meanwhile."""
    cells = [
        Cell("python -I -S -c pass", "annexe", "bare_starts", {"count": bench.count(20)}, "ms"),
        Cell("cold, to ready", "annexe", "starts", {"count": bench.count(20)}, "ms"),
        Cell("cold, to ready, without walls", "annexe, no walls", "starts", {"count": bench.count(20)}, "ms"),
        Cell("warm, to ready", "annexe, warm", "starts", {"count": bench.count(20)}, "ms"),
        Cell("cold, to first answer", "annexe", "starts_answered", {"count": bench.count(20)}, "ms"),
        Cell("warm, to first answer", "annexe, warm", "starts_answered", {"count": bench.count(20)}, "ms"),
        Cell("pyisolate, to first answer", "pyisolate", "starts", {"count": bench.count(4)}, "ms"),
    ]
    with bench.seats(_SUBJECTS) as seats:
        bench.interleave(seats, cells)
    bare, walled, bare_walls = (bench.value(what) for what in ("python -I -S -c pass", "cold, to ready", "cold, to ready, without walls"))
    bench.ratio("cold_ready_over_python", walled, bare)
    bench.ratio("warm_ready_over_python", bench.value("warm, to ready"), bare)
    bench.ratio("sandbox_added_over_python", walled - bare_walls if walled and bare_walls else None, bare)
