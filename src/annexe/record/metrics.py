"""Figures of calls to plugins, of what became of them, and figures that plugins give themselves.

``MethodFigures`` is resolved once, when a plugin becomes ready; counting a call is then a few additions. What plugins give is
hostile: names, kinds, values and labels are checked, their number is bounded, and what is refused is counted.

* The label ``plugin`` is the host's; a plugin cannot give it.
* A metric's kind is part of its exported name, so plugins cannot spoil each other's.

Called on the host's loop thread.

Source: features HS3, OB3.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, Literal, final

from annexe.record.events import EventKind
from annexe.record.lives import LifeFigures
from annexe.record.safetext import escaped

__all__ = ["LATENCY_BOUNDS_S", "MAX_LABEL_SETS", "MAX_NAMES", "VALUE_BOUNDS", "Histogram", "MethodFigures", "Metrics", "PluginMetrics"]

LATENCY_BOUNDS_S = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
VALUE_BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0, 5000.0, 10000.0)
MAX_NAMES = 100
MAX_LABEL_SETS = 1000
_MAX_METHODS = 1000
_MAX_LABELS = 8
_MAX_LABEL_CHARS = 128
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_RESERVED_LABELS = frozenset({"plugin", "le", "quantile"})
# Names under which a histogram is exported; another metric ending in one of them could be taken for it.
_RESERVED_ENDINGS = ("_bucket", "_sum", "_count")

_Kind = Literal["counter", "gauge", "histogram"]
_Labels = tuple[tuple[str, str], ...]


@final
class Histogram:
    """How many values fell into each of a few fixed ranges. The last range has no upper bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def snapshot(self) -> dict[str, Any]:
        """Return count, sum, and for each upper bound how many values were at most that."""
        at_most: dict[str, int] = {}
        running = 0
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=True):
            running += count
            at_most["+Inf" if bound == math.inf else f"{bound:g}"] = running
        return {"count": running, "sum": self.total, "buckets": at_most}


@final
class MethodFigures:
    """Calls of one method of one plugin. Kept by whoever calls it; costs a few additions a call."""

    __slots__ = ("_bounds", "_counts", "calls", "failures", "latency", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.failures: dict[str, int] = {}
        self.latency = Histogram(LATENCY_BOUNDS_S)
        self._bounds = self.latency.bounds
        self._counts = self.latency.counts

    def add(self, took_s: float) -> None:
        """Count a call that gave a result."""
        self.calls += 1
        self.seconds += took_s
        self._counts[bisect_left(self._bounds, took_s)] += 1

    def add_failure(self, took_s: float, code: str) -> None:
        """Count a call that did not. ``code`` is one of ours (``annexe.errors``), never a text of the plugin's."""
        self.add(took_s)
        self.failures[code] = self.failures.get(code, 0) + 1

    def snapshot(self) -> dict[str, Any]:
        """Return the figures."""
        self.latency.total = self.seconds
        return {"calls": self.calls, "seconds": self.seconds, "failures": dict(self.failures), "latency": self.latency.snapshot()}


@final
class PluginMetrics:
    """What one plugin counts itself, within limits. Made by ``Metrics.plugin``.

    Attributes:
        dropped: Notifications that were refused, by reason: ``invalid``, ``names``, ``label-sets``, ``too-large``, ``too-often``.
    """

    __slots__ = ("_kinds", "_series", "dropped")

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}
        self._series: dict[tuple[str, _Labels], float | Histogram] = {}
        self.dropped = {"invalid": 0, "names": 0, "label-sets": 0, "too-large": 0, "too-often": 0}

    def record(self, name: object, kind: object, value: object, labels: object = None) -> str | None:
        """Take one notification, whatever it holds.

        Args:
            name: Lower-case letters, digits and ``_``, at most 64.
            kind: ``counter`` (adds ``value``, which is not negative), ``gauge`` (becomes it) or ``histogram`` (counts it). The first
                use of a name settles its kind.
            value: A finite number.
            labels: At most 8 texts by name, each at most 128 characters.

        Returns:
            None, or the reason for which it was dropped and counted: a key of ``dropped``.
        """
        refusal = self._record(name, kind, value, labels)
        if refusal is not None:
            self.drop(refusal)
        return refusal

    def drop(self, reason: str) -> str:
        """Count a notification that was thrown away unread, and return the reason: a key of ``dropped``."""
        self.dropped[reason] += 1
        return reason

    def snapshot(self) -> list[dict[str, Any]]:
        """Return every series: name, kind, labels, and value or histogram."""
        return [
            {
                "name": name,
                "kind": self._kinds[name],
                "labels": dict(labels),
                "value": series.snapshot() if isinstance(series, Histogram) else series,
            }
            for (name, labels), series in self._series.items()
        ]

    def _record(self, name: object, kind: object, value: object, labels: object) -> str | None:
        settled = _name_of(name, kind)
        number = _number(value)
        label_set = _label_set(labels)
        if settled is None or number is None or label_set is None or (kind == "counter" and number < 0):
            return "invalid"
        name, kind = settled
        if self._kinds.get(name, kind) != kind:
            return "invalid"
        key = name, label_set
        series = self._series.get(key)
        if series is None:
            # Both limits before anything is kept: a refused series must take nothing.
            if name not in self._kinds and len(self._kinds) >= MAX_NAMES:
                return "names"
            if len(self._series) >= MAX_LABEL_SETS:
                return "label-sets"
            self._kinds[name] = kind
            series = self._series[key] = Histogram(VALUE_BOUNDS) if kind == "histogram" else 0.0
        if isinstance(series, Histogram):
            if not math.isfinite(series.total + number):
                return "invalid"
            series.observe(number)
            return None
        becomes = series + number if kind == "counter" else number
        if not math.isfinite(becomes):
            return "invalid"
        self._series[key] = becomes
        return None


@final
class Metrics:
    """The figures of every plugin."""

    def __init__(self) -> None:
        self._methods: dict[str, dict[str, MethodFigures]] = {}
        self._lives: dict[str, LifeFigures] = {}
        self._plugins: dict[str, PluginMetrics] = {}

    def method(self, plugin: str, method: str) -> MethodFigures:
        """Return where calls of a method are counted, the same each time. Resolve it when the plugin becomes ready.

        Past 1,000 methods of one plugin the others share one entry, ``other``.
        """
        methods = self._methods.setdefault(plugin, {})
        if method not in methods and len(methods) >= _MAX_METHODS:
            method = "other"
        figures = methods.get(method)
        if figures is None:
            figures = methods[method] = MethodFigures()
        return figures

    def plugin(self, plugin: str) -> PluginMetrics:
        """Return where a plugin's own figures go, the same each time."""
        metrics = self._plugins.get(plugin)
        if metrics is None:
            metrics = self._plugins[plugin] = PluginMetrics()
        return metrics

    def count_event(self, kind: EventKind, plugin: str, facts: Mapping[str, object]) -> None:
        """Count an event of a plugin's, if its kind is counted; for ``Events``."""
        if LifeFigures.counts(kind):
            life = self._lives.get(plugin)
            if life is None:
                life = self._lives[plugin] = LifeFigures()
            life.add(kind, facts)

    def forget(self, plugin: str) -> None:
        """Throw away a removed plugin's figures."""
        self._lives.pop(plugin, None)
        self._methods.pop(plugin, None)
        self._plugins.pop(plugin, None)

    def snapshot(self) -> dict[str, Any]:
        """Return every figure: by plugin id ``life``, ``methods`` (by name), ``metrics`` (a list) and ``dropped`` (by reason)."""
        return {plugin: self.snapshot_of(plugin) for plugin in sorted(self._methods.keys() | self._plugins.keys() | self._lives.keys())}

    def snapshot_of(self, plugin: str) -> dict[str, Any]:
        """Return the figures of one plugin."""
        own = self._plugins.get(plugin)
        return {
            "life": self._lives.get(plugin, LifeFigures()).snapshot(),
            "methods": {name: figures.snapshot() for name, figures in self._methods.get(plugin, {}).items()},
            "metrics": own.snapshot() if own is not None else [],
            "dropped": dict(own.dropped) if own is not None else {},
        }


def _name_of(name: object, kind: object) -> tuple[str, _Kind] | None:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None or name.endswith(_RESERVED_ENDINGS):
        return None
    if kind == "counter":
        return name.removesuffix("_total") or name, "counter"
    if kind == "gauge":
        return name, "gauge"
    return (name, "histogram") if kind == "histogram" else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _label_set(labels: object) -> _Labels | None:
    if labels is None:
        return ()
    if not isinstance(labels, Mapping) or len(labels) > _MAX_LABELS:
        return None
    for name, value in labels.items():
        if not isinstance(name, str) or _NAME.fullmatch(name) is None or name in _RESERVED_LABELS:
            return None
        if not isinstance(value, str) or len(value) > _MAX_LABEL_CHARS:
            return None
    return tuple(sorted((name, escaped(value)) for name, value in labels.items()))
