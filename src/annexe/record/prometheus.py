"""Figures in the text format that Prometheus reads (version 0.0.4).

Pure: a snapshot in, text out.

Names: ``annexe_plugin_starts_total``, ``annexe_plugin_exits_total``, ``annexe_permission_denials_total``, ``annexe_violations_total`` and
``annexe_events_dropped_total`` for what became of plugins; ``annexe_calls_total``, ``annexe_call_failures_total`` and
``annexe_call_seconds`` for calls to them; ``annexe_<kind>_<name>`` for what plugins count themselves (``annexe_counter_seen_total``), so
that two plugins that give one name different kinds both come out right; ``annexe_metrics_dropped_total`` for what was refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

__all__ = ["as_prometheus_text"]


def as_prometheus_text(snapshot: Mapping[str, Any]) -> str:
    """Return what ``Metrics.snapshot`` returned as text for a scraper."""
    families = _Families()
    for plugin, figures in snapshot.items():
        _add_life(families, plugin, figures["life"])
        for method, counts in figures["methods"].items():
            labels = {"plugin": plugin, "method": method}
            families.add("annexe_calls_total", "counter", labels, counts["calls"])
            for code, count in counts["failures"].items():
                families.add("annexe_call_failures_total", "counter", labels | {"code": code}, count)
            families.add_histogram("annexe_call_seconds", labels, counts["latency"])
        for series in figures["metrics"]:
            labels = {"plugin": plugin, **series["labels"]}
            name = f"annexe_{series['kind']}_{series['name']}"
            if series["kind"] == "histogram":
                families.add_histogram(name, labels, series["value"])
            else:
                families.add(name + ("_total" if series["kind"] == "counter" else ""), series["kind"], labels, series["value"])
        for reason, count in figures["dropped"].items():
            families.add("annexe_metrics_dropped_total", "counter", {"plugin": plugin, "reason": reason}, count)
    return families.text()


def _add_life(families: _Families, plugin: str, life: Mapping[str, Any]) -> None:
    families.add("annexe_plugin_starts_total", "counter", {"plugin": plugin}, life["starts"])
    for reason, count in life["exits"].items():
        families.add("annexe_plugin_exits_total", "counter", {"plugin": plugin, "reason": reason}, count)
    for right, count in life["denials"].items():
        families.add("annexe_permission_denials_total", "counter", {"plugin": plugin, "right": right}, count)
    for resource, actions in life["violations"].items():
        for action, count in actions.items():
            families.add("annexe_violations_total", "counter", {"plugin": plugin, "resource": resource, "action": action}, count)
    families.add("annexe_events_dropped_total", "counter", {"plugin": plugin}, life["events_dropped"])


@final
class _Families:
    """Lines by metric; the format wants all lines of one metric together."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}

    def add(self, name: str, kind: str, labels: Mapping[str, str], value: float) -> None:
        self._of(name, kind).append(_sample(name, labels, value))

    def add_histogram(self, name: str, labels: Mapping[str, str], histogram: Mapping[str, Any]) -> None:
        lines = self._of(name, "histogram")
        lines.extend(_sample(name + "_bucket", {**labels, "le": bound}, count) for bound, count in histogram["buckets"].items())
        lines.append(_sample(name + "_sum", labels, histogram["sum"]))
        lines.append(_sample(name + "_count", labels, histogram["count"]))

    def text(self) -> str:
        return "".join(f"{line}\n" for lines in self._lines.values() for line in lines)

    def _of(self, name: str, kind: str) -> list[str]:
        return self._lines.setdefault(name, [f"# TYPE {name} {kind}"])


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    written = ",".join(f'{label}="{_quoted(text)}"' for label, text in labels.items())
    return f"{name}{{{written}}} {value!r}"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
