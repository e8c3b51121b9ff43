"""The benchmarks run: their own rows are measured, guards and all, and the names that results are compared by are there.

Figures are nobody's business here: the machine is busy with other tests. Peers are left out: they are not installed here.
"""

import os
from types import ModuleType

import pytest

from benchmarks import call, start
from benchmarks.harness import Bench

pytestmark = pytest.mark.any_user

_CALL_ROWS = {"floor", "async", "async, JSON", "async, stock loop", "async, pydantic", "sync", "async, no walls"}


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
    assert all(value > 0 for value in bench.ratios.values())
