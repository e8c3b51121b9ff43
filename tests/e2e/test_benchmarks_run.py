"""The benchmarks run: their own rows are measured, guards and all, and the names that results are compared by are there.

Figures are nobody's business here: the machine is busy with other tests. Peers are left out: they are not installed here.
"""

import os
from types import ModuleType

import pytest

from benchmarks import call, reload, scale, services, start, store
from benchmarks.harness import Bench

_CALL_ROWS = {"floor", "async", "async, JSON", "async, stock loop", "async, pydantic", "sync", "async, no walls"}
_NONE_OF = {"failed", "lost", "lost_updates"}  # calls and updates; every other figure is of something that takes time


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins processes, which only Linux can")
@pytest.mark.parametrize(
    ("module", "rows", "keys"),
    [
        pytest.param(
            call,
            {f"{row}{suffix}" for row in _CALL_ROWS for suffix in ("", " (pinned)")},
            {"async_floor", "sync_floor", "async_floor_pinned", "sync_floor_pinned", "async_over_no_walls_pinned"},
            id="call",
        ),
        pytest.param(start, {"python -I -S -c pass", "cold, to ready", "cold, to first answer"}, {"cold_ready_over_python"}, id="start"),
        pytest.param(
            reload,
            {"edit, without", "one replacement, from asking to taken over"},
            {"lost", "failed", "p99_over_baseline", "p99_over_baseline_without_pause"},
            id="reload",
        ),
        pytest.param(
            services,
            {"1 KiB edited, plugin to plugin", "64 KiB of bytes, plugin to plugin (pinned)", "one plugin alone, to ready"},
            {"plugin_to_plugin_over_call_1kib", "plugin_to_plugin_over_call_64kib", "graph_start_over_bound"},
            id="services",
        ),
        pytest.param(
            scale,
            {"host start, 10 installed", "find, over the control socket, 10 installed", "call, 1 running", "all their processes, 1 idle"},
            {"start_1000_s", "list_1000_ms", "idle_cpu_200_pct", "call_200_over_1"},
            id="scale",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            store,
            {"get, from SQLite", "compare-and-set", "set by a polite plugin, beside a flooding one"},
            {"get_cached_over_call", "get_over_call", "lost_updates", "polite_p99_over_alone"},
            id="store",
            marks=pytest.mark.slow,
        ),
    ],
)
@pytest.mark.timeout(120)  # it measures until it has enough, also beside other tests
def test_benchmark_run_quickly_measures_its_own_rows(
    module: ModuleType, rows: set[str], keys: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, "_PEERS", {"floor": "Floor"})
    bench = Bench(name=module.NAME, quick=True)
    module.measure(bench)
    unmeasured = [row.what for row in bench.rows if row.what.partition(":")[0] in rows and not row.n]
    assert (bench.failed, unmeasured) == (False, [])
    assert rows <= {row.what for row in bench.rows}
    assert keys <= bench.ratios.keys()
    assert {key: value for key, value in bench.ratios.items() if (value == 0) is not (key in _NONE_OF)} == {}
