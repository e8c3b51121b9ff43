"""Calls a second with many in flight, on one plugin and on several. Source: ADR-0045."""

from __future__ import annotations

from benchmarks.harness import Bench, Cell, Mark, Subject, reference

__all__ = ["MARKS", "NAME", "TITLE", "measure"]

NAME = "throughput"
TITLE = "Calls a second, many in flight: 1 KB in, really edited, 1 KB out"
_HOST_BOUND = (
    "the host is the limit, not the plugin: one thread runs its Python for every call. Reads and writes are shared by many calls and are "
    "not what costs."
)
MARKS = (
    Mark(key="over_grpcio_aio_64", limit=20, at_least=True, about="64 in flight ÷ grpcio aio, as scheduled", held_back_by=_HOST_BOUND),
    Mark(key="over_grpcio_aio_64_pinned", limit=20, at_least=True, about="64 in flight ÷ grpcio aio, pinned", held_back_by=_HOST_BOUND),
    Mark(
        key="flat_plugins_16",
        limit=1.15,
        about="cost per call, 16 plugins with 64 in flight each ÷ 1 with 64, pinned",
        held_back_by="sixteen processes and a thousand open calls share the caches of one core.",
    ),
    Mark(
        key="flat_inflight_512",
        limit=1.15,
        about="cost per call, 512 in flight ÷ 64, pinned",
        held_back_by="calls beyond 65 wait in the host's queue and are sent one by one as answers come, and more open calls are more "
        "memory to go through.",
    ),
)
_OURS = tuple(
    Subject(f"{plugins} plugin{'s' if plugins > 1 else ''}", "benchmarks.subject:AsyncCall", {"copies": plugins}, ours=True)
    for plugins in (1, 4, 16)
)
# What is asked for: subject, calls in flight in all, calls. Spread over 16 plugins, 64 are 4 for each of them and 1024 are 64.
_CELLS = (("floor", 64, 20_000), ("grpcio aio", 64, 2_560), ("grpcio aio", 512, 2_560), ("1 plugin", 64, 12_800), ("1 plugin", 512, 12_800))
_SPREAD = (("4 plugins", 64, 12_800), ("16 plugins", 64, 12_800), ("16 plugins", 512, 12_800), ("16 plugins", 1024, 12_800))


def measure(bench: Bench) -> None:
    """Measure as scheduled and pinned; flatness is judged pinned, where no second core can hide a cost.

    ``flat_plugins_16`` keeps what each plugin has in flight; ``spread_over_plugins_16`` keeps the total, so that less of it shares a write.
    """
    subjects = [reference("floor", "Floor"), reference("grpcio aio", "GrpcAio"), *_OURS]
    for suffix in ("", " (pinned)"):
        with bench.seats(subjects, pinned=bool(suffix)) as seats:
            cells = [
                Cell(f"{name}, {width} in flight", name, "rate", {"width": width, "count": max(width, bench.count(count))}, "calls/s", min)
                for name, width, count in _CELLS + _SPREAD
            ]
            bench.interleave(seats, cells, suffix=suffix)
        ours, grpc = bench.value(f"1 plugin, 64 in flight{suffix}"), bench.value(f"grpcio aio, 64 in flight{suffix}")
        bench.ratio(f"over_grpcio_aio_64{'_pinned' if suffix else ''}", ours, grpc)
        bench.absent.clear()
    one = bench.value("1 plugin, 64 in flight (pinned)")
    bench.ratio("flat_plugins_16", one, bench.value("16 plugins, 1024 in flight (pinned)"))
    bench.ratio("spread_over_plugins_16", one, bench.value("16 plugins, 64 in flight (pinned)"))
    bench.ratio("flat_inflight_512", one, bench.value("1 plugin, 512 in flight (pinned)"))
