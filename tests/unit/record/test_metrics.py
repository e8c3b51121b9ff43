from __future__ import annotations

import math
import re
from typing import Any

import pytest

from annexe.record.metrics import LATENCY_BOUNDS_S, MAX_LABEL_SETS, MAX_NAMES, Metrics, PluginMetrics
from annexe.record.prometheus import as_prometheus_text


def test_method_figures_count_calls_failures_and_time() -> None:
    metrics = Metrics()
    figures = metrics.method("one", "hook.chat.on_request")
    assert metrics.method("one", "hook.chat.on_request") is figures
    figures.add(0.00005)
    figures.add(0.002)
    figures.add_failure(60.0, "deadline-exceeded")
    figures.add_failure(0.0, "deadline-exceeded")
    shown = metrics.snapshot()["one"]["methods"]["hook.chat.on_request"]
    assert (shown["calls"], shown["failures"]) == (4, {"deadline-exceeded": 2})
    assert shown["seconds"] == shown["latency"]["sum"] == pytest.approx(60.00205)
    buckets = shown["latency"]["buckets"]
    assert (buckets["5e-05"], buckets["0.001"], buckets["0.0025"], buckets["10"], buckets["+Inf"]) == (2, 2, 3, 3, 4)
    assert len(buckets) == len(LATENCY_BOUNDS_S) + 1


def test_metrics_methods_past_the_limit_share_one_entry() -> None:
    metrics = Metrics()
    for number in range(1000):
        metrics.method("one", f"m{number}")
    assert metrics.method("one", "m1000") is metrics.method("one", "m1001") is metrics.method("one", "other")
    assert metrics.method("one", "m5") is not metrics.method("one", "other")


def test_metrics_of_a_removed_plugin_are_forgotten() -> None:
    metrics = Metrics()
    metrics.method("one", "m")
    metrics.plugin("two").record("seen", "counter", 1)
    metrics.forget("one")
    metrics.forget("two")
    assert metrics.snapshot() == {}


def values_of(metrics: PluginMetrics) -> dict[tuple[str, str], Any]:
    return {(series["name"], str(series["labels"])): series["value"] for series in metrics.snapshot()}


def test_plugin_counter_adds_gauge_becomes_histogram_counts() -> None:
    metrics = PluginMetrics()
    for value in (1, 2.5):
        assert metrics.record("seen", "counter", value, {"kind": "mail"}) is None
        assert metrics.record("level", "gauge", -value) is None
        assert metrics.record("size", "histogram", value) is None
    values = values_of(metrics)
    assert values["seen", "{'kind': 'mail'}"] == 3.5
    assert values["level", "{}"] == -2.5
    assert (values["size", "{}"]["count"], values["size", "{}"]["sum"]) == (2, 3.5)
    assert set(metrics.dropped.values()) == {0}


@pytest.mark.parametrize(
    ("name", "kind", "value", "labels"),
    [
        pytest.param(5, "counter", 1, {}, id="name-no-text"),
        pytest.param("Bad", "counter", 1, {}, id="name-upper-case"),
        pytest.param("a\nb", "counter", 1, {}, id="name-line-break"),
        pytest.param("a\n", "counter", 1, {}, id="name-ends-in-line-feed"),
        pytest.param("x" * 65, "counter", 1, {}, id="name-too-long"),
        pytest.param("size_bucket", "gauge", 1, {}, id="name-of-a-histogram's-part"),
        pytest.param("a", "summary", 1, {}, id="kind-unknown"),
        pytest.param("a", ["counter"], 1, {}, id="kind-no-text"),
        pytest.param("a", "counter", -1, {}, id="counter-back"),
        pytest.param("a", "gauge", math.nan, {}, id="nan"),
        pytest.param("a", "gauge", math.inf, {}, id="inf"),
        pytest.param("a", "gauge", 10**400, {}, id="int-too-large"),
        pytest.param("a", "gauge", True, {}, id="bool"),
        pytest.param("a", "gauge", "1", {}, id="text"),
        pytest.param("a", "gauge", 1, ["x"], id="labels-no-map"),
        pytest.param("a", "gauge", 1, {"plugin": "other"}, id="label-forges-the-plugin"),
        pytest.param("a", "gauge", 1, {"le": "1"}, id="label-forges-a-bucket"),
        pytest.param("a", "gauge", 1, {"x": 1}, id="label-no-text"),
        pytest.param("a", "gauge", 1, {1: "x"}, id="label-name-no-text"),
        pytest.param("a", "gauge", 1, {"x": "y" * 129}, id="label-too-long"),
        pytest.param("a", "gauge", 1, {f"l{number}": "x" for number in range(9)}, id="labels-too-many"),
    ],
)
def test_plugin_metric_that_is_malformed_is_dropped_and_counted(name: object, kind: object, value: object, labels: object) -> None:
    metrics = PluginMetrics()
    assert metrics.record(name, kind, value, labels) == "invalid"
    assert metrics.snapshot() == []
    assert metrics.dropped["invalid"] == 1


def test_plugin_metric_cannot_change_its_kind() -> None:
    metrics = PluginMetrics()
    metrics.record("a", "counter", 1)
    assert metrics.record("a", "gauge", 1) == "invalid"
    assert metrics.record("a_total", "counter", 1) is None  # the same counter under its exported name
    assert values_of(metrics) == {("a", "{}"): 2}


@pytest.mark.parametrize("kind", ["counter", "histogram"])
def test_plugin_metric_that_would_run_over_is_refused(kind: str) -> None:
    metrics = PluginMetrics()
    assert metrics.record("a", kind, 1.7e308) is None
    assert metrics.record("a", kind, 1.7e308) == "invalid"


def test_plugin_metric_names_and_label_sets_are_limited() -> None:
    metrics = PluginMetrics()
    results = [metrics.record(f"n{number}", "counter", 1) for number in range(MAX_NAMES + 5)]
    assert results == [None] * MAX_NAMES + ["names"] * 5
    results = [metrics.record("n0", "counter", 1, {"user": str(number)}) for number in range(MAX_LABEL_SETS)]
    assert results == [None] * (MAX_LABEL_SETS - MAX_NAMES) + ["label-sets"] * MAX_NAMES
    assert metrics.record("n0", "counter", 1, {"user": "0"}) is None
    assert metrics.dropped | {"names": 5, "label-sets": MAX_NAMES} == metrics.dropped
    assert sum(metrics.dropped.values()) == 5 + MAX_NAMES
    assert len(metrics.snapshot()) == MAX_LABEL_SETS


def test_prometheus_text_names_the_plugin_and_keeps_families_together() -> None:
    metrics = Metrics()
    metrics.method("one", "m").add(0.002)
    metrics.method("two", "m").add_failure(0.2, "busy")
    metrics.plugin("one").record("seen", "counter", 3, {"kind": 'a"b\\c\nd'})
    metrics.plugin("two").record("seen", "gauge", 1.5)
    metrics.plugin("two").record("size", "histogram", 7)
    metrics.plugin("two").record("Bad", "gauge", 1)
    text = as_prometheus_text(metrics.snapshot())
    lines = text.splitlines()
    assert 'annexe_calls_total{plugin="one",method="m"} 1' in lines
    assert 'annexe_call_failures_total{plugin="two",method="m",code="busy"} 1' in lines
    assert 'annexe_call_seconds_bucket{plugin="one",method="m",le="0.0025"} 1' in lines
    assert 'annexe_call_seconds_count{plugin="two",method="m"} 1' in lines
    assert 'annexe_counter_seen_total{plugin="one",kind="a\\"b\\\\c\\\\nd"} 3.0' in lines
    assert 'annexe_gauge_seen{plugin="two"} 1.5' in lines
    assert 'annexe_histogram_size_sum{plugin="two"} 7.0' in lines
    assert 'annexe_metrics_dropped_total{plugin="two",reason="invalid"} 1' in lines
    assert text.endswith("\n")
    family = ""
    seen: set[str] = set()
    for line in lines:
        if line.startswith("# TYPE "):
            family = line.split()[2]
            assert family not in seen
            seen.add(family)
        else:
            assert re.fullmatch(re.escape(family) + r'(_bucket|_sum|_count)?\{(\w+="([^"\\\n]|\\.)*",?)*\} \S+', line), line
