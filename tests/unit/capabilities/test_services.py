"""What plugins send that would cost the event loop much is refused before it is decoded."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from annexe.capabilities.services import PluginServices
from annexe.channel import PluginCall
from annexe.errors import InvalidParamsError
from annexe.manifest import Manifest, parse_manifest
from annexe.record import EventKind, Events, PluginLog, PluginMetrics
from tests.unit.record.clocks import StillClock

_MANIFEST = b"""
manifest-version = 1

[plugin]
id = "sample"
version = "1.0.0"
name = "Sample"
description = "d"

[runtime]
kind = "python"
entry = "sample.plugin"
"""


class _Log:
    def __init__(self) -> None:
        self.lines: list[object] = []
        self.dropped = 0
        self.charged = 0.0

    def charge(self, lines: float) -> None:
        self.charged += lines

    def is_open(self) -> bool:
        return True

    def drop(self, count: int) -> None:
        self.dropped += count

    def write(self, level: object, message: object, *_: object, **__: object) -> None:
        self.lines.append(message)


class _Kv:
    def __init__(self) -> None:
        self.called: list[str] = []
        self.paid_bytes: list[int] = []

    def pay_for(self, size_bytes: int) -> None:
        self.paid_bytes.append(size_bytes)

    def call(self, name: str, params: Any) -> None:
        self.called.append(name)


class _Call:
    codec = "msgpack"

    def __init__(self, method: str, params: bytes) -> None:
        self.method, self.params = method, msgspec.Raw(params)


class _Desk:
    def __init__(self) -> None:
        self.log, self.kv, self.metrics, self.events = _Log(), _Kv(), PluginMetrics(), Events(StillClock())
        manifest: Manifest = parse_manifest(_MANIFEST, source="test")
        self.services = PluginServices(
            manifest,
            frozenset({"kv"}),
            kv=cast(Any, self.kv),
            capabilities={},
            log=cast(PluginLog, self.log),
            metrics=self.metrics,
            events=self.events,
            instance="sample-1",
            grant_command="annexe grant sample",
        )

    def notify(self, method: str, params: Any) -> None:
        self.services.notify(method, msgspec.Raw(msgspec.msgpack.encode(params)), "msgpack", None)

    def ask(self, method: str, params: bytes) -> None:
        self.services.serve(cast(PluginCall, _Call(method, params)))


def test_large_log_line_is_dropped_and_counted() -> None:
    desk = _Desk()
    desk.notify("log", {"level": "info", "message": "v" * 65_536})
    desk.notify("log", {"level": "info", "message": "small"})
    assert (desk.log.lines, desk.log.dropped) == (["small"], 1)


def test_a_log_line_is_paid_for_by_what_was_received_of_it() -> None:
    desk = _Desk()
    desk.notify("log", {"level": "info", "message": "small"})
    assert desk.log.charged == 0.0
    desk.notify("log", {"level": "info", "message": "bomb", "more": [{}] * 60_000})
    assert desk.log.charged == 60_000 // 1024
    assert desk.log.lines == ["small", "bomb"]


def test_kv_parameters_are_paid_for_before_they_are_decoded() -> None:
    desk = _Desk()
    desk.ask("kv.set", b"\xc0" * 4096)
    assert desk.kv.paid_bytes == []
    desk.ask("kv.set", b"\xc0" * 500_000)
    assert desk.kv.paid_bytes == [500_000]


def test_large_metric_is_dropped_and_counted() -> None:
    desk = _Desk()
    desk.notify("metric", {"name": "seen", "kind": "counter", "value": 1, "more": "v" * 65_536})
    assert desk.metrics.dropped["too-large"] == 1
    assert desk.metrics.snapshot() == []
    assert [(event.kind, event.reason) for event in desk.events.latest()] == [(EventKind.METRIC_DROPPED, "too-large")]


def test_metrics_sent_too_often_are_dropped_and_counted() -> None:
    desk = _Desk()
    for _ in range(50):
        desk.notify("metric", {"name": "seen", "kind": "counter", "value": 1, "more": "v" * 60_000})
    counted = desk.metrics.snapshot()[0]["value"]
    assert 2000 // 59 <= counted < 50
    assert desk.metrics.dropped["too-often"] == 50 - counted


@pytest.mark.parametrize(
    ("method", "limit_bytes"),
    [("kv.get", 65_536), ("kv.set", 1_048_576 + 65_536), ("kv.compare_and_set", 2 * 1_048_576 + 65_536)],
)
def test_kv_parameters_that_no_value_can_need_are_refused_undecoded(method: str, limit_bytes: int) -> None:
    desk = _Desk()
    desk.ask(method, b"\xc0" * limit_bytes)
    with pytest.raises(InvalidParamsError) as caught:
        desk.ask(method, b"\xc0" * (limit_bytes + 1))
    assert caught.value.data == {"method": method}
    assert desk.kv.called == [method]
