"""One typed call of about 1 KB, through the host to a plugin and back, beside the peers. Source: ADR-0045."""

from __future__ import annotations

from benchmarks.harness import Bench, Cell, Mark, Subject, reference

__all__ = ["MARKS", "NAME", "TITLE", "measure"]

NAME = "call"
TITLE = "One call: 1 KB in, really edited, 1 KB out"
_OWN_WORK = (
    "both processes run Python of their own for each call: checking, encoding, decoding into the declared type, request, trace, deadline, "
    "slot, explain and figures."
)
MARKS = (
    Mark(key="async_floor_pinned", limit=3.5, about="async call ÷ floor, pinned to one core", held_back_by=_OWN_WORK),
    Mark(
        key="sync_floor_pinned",
        limit=5.5,
        about="sync call ÷ floor, pinned",
        held_back_by="what holds the async call back, and two hand-overs between the caller's thread and the loop's.",
    ),
    Mark(key="grpcio_over_async_pinned", limit=8, at_least=True, about="grpcio (aio) ÷ async call, pinned", held_back_by=_OWN_WORK),
    Mark(key="pyro5_over_async_pinned", limit=2, at_least=True, about="Pyro5 ÷ async call, pinned"),
    Mark(key="pyisolate_over_async_pinned", limit=15, at_least=True, about="pyisolate ÷ async call, pinned", held_back_by=_OWN_WORK),
    Mark(key="async_over_no_walls_pinned", limit=1.05, about="async call ÷ the same without a sandbox, pinned"),
)
_PEERS = {
    "floor": "Floor",
    "multiprocessing Pipe": "PipeEcho",
    "rpyc": "Rpyc",
    "Pyro5": "Pyro",
    "grpcio sync": "GrpcSync",
    "grpcio aio": "GrpcAio",
    "pyisolate": "Pyisolate",
}
_OURS = (
    Subject("async", "benchmarks.subject:AsyncCall", ours=True),
    Subject("async, JSON", "benchmarks.subject:AsyncCall", {"codec": "json"}, ours=True),
    Subject("async, stock loop", "benchmarks.subject:AsyncCall", {"loop": "stock"}, ours=True),
    Subject("async, pydantic", "benchmarks.subject:AsyncCall", {"model": "pydantic"}, ours=True),
    Subject("sync", "benchmarks.subject:SyncCall", ours=True),
    Subject("async, no walls", "benchmarks.subject:CallsWithoutWalls", ours=True),
)


def measure(bench: Bench) -> None:
    """Measure every row twice: as the kernel schedules it, and with the whole tree pinned to one core."""
    for pinned in (False, True):
        suffix = " (pinned)" if pinned else ""
        with bench.seats([reference(name, kind) for name, kind in _PEERS.items()] + list(_OURS), pinned=pinned) as seats:
            cells = [Cell(name, name, args={"count": bench.count(600)}) for name in [*_PEERS, *(subject.name for subject in _OURS)]]
            bench.interleave(seats, cells, suffix=suffix)
        for ours in ("async", "sync"):
            bench.ratio(f"{ours}_floor{'_pinned' if pinned else ''}", bench.value(ours + suffix), bench.value("floor" + suffix))
        bench.absent.clear()
    bench.ratio("async_over_no_walls_pinned", bench.value("async (pinned)"), bench.value("async, no walls (pinned)"))
    for key, peer in (("grpcio", "grpcio aio"), ("pyro5", "Pyro5"), ("pyisolate", "pyisolate")):
        bench.ratio(f"{key}_over_async_pinned", bench.value(f"{peer} (pinned)"), bench.value("async (pinned)"))
