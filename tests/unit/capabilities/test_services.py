"""What plugins send that would cost the event loop much is refused before it is decoded."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from annexe.capabilities.services import Capability, PluginServices
from annexe.channel import PluginCall
from annexe.contract import capability_definition
from annexe.errors import InvalidParamsError, MethodNotFoundError, PermissionDeniedError
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


class _Orders:
    name = "orders"

    async def count(self) -> int:
        return 3

    async def total(self) -> int:
        return 4


class _Call:
    codec = "msgpack"
    request_id = None

    def __init__(self, method: str, params: bytes) -> None:
        self.method, self.params = method, msgspec.Raw(params)


class _Desk:
    def __init__(self) -> None:
        self.log, self.kv, self.metrics, self.events = _Log(), _Kv(), PluginMetrics(), Events(StillClock())
        manifest: Manifest = parse_manifest(_MANIFEST, source="test")
        self.used: list[str] = []
        self.published: list[tuple[str, bytes]] = []
        capability = Capability(capability_definition(_Orders), _Orders())
        self.services = PluginServices(
            manifest,
            frozenset({"kv", "cap:orders", "events.publish:a.done"}),
            kv=cast(Any, self.kv),
            capabilities={"orders": capability},
            services={},
            log=cast(PluginLog, self.log),
            metrics=self.metrics,
            events=self.events,
            instance="sample-1",
            grant_command="annexe grant sample",
            publish=self.publish,
            on_used=self.used.append,
        )

    def publish(self, _call: PluginCall, topic: str, value: msgspec.Raw) -> int:
        self.published.append((topic, bytes(value)))
        return 3

    def notify(self, method: str, params: Any) -> None:
        self.services.notify(method, msgspec.Raw(msgspec.msgpack.encode(params)), "msgpack", None)

    def ask(self, method: str, params: bytes) -> Any:
        return self.services.serve(cast(PluginCall, _Call(method, params)))


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


def test_use_of_a_right_is_told_once_until_it_is_looked_again() -> None:
    desk = _Desk()
    for method in ("kv.get", "kv.get", "kv.set", "cap.orders.count", "cap.orders.total"):
        answer = desk.ask(method, b"\x90")
        if answer is not None:
            assert asyncio.run(answer) in (3, 4)
    assert desk.used == ["kv", "cap:orders"]
    desk.services.look_again()
    desk.ask("kv.delete", b"\xc0")
    assert desk.used == ["kv", "cap:orders", "kv"]


def test_after_its_first_use_a_right_is_served_by_the_function_itself() -> None:
    desk = _Desk()
    before = desk.services._methods["kv.get"]
    desk.ask("kv.set", b"\xc0")
    assert desk.services._methods["kv.get"] is desk.services._by_right["kv"]["kv.get"]
    assert desk.services._methods["kv.get"] is not before


def test_rights_taken_back_are_used_no_more_however_often_it_is_looked_again() -> None:
    desk = _Desk()
    desk.services.withdraw()
    desk.services.look_again()
    with pytest.raises(PermissionDeniedError):
        desk.ask("kv.get", b"\xc0")
    assert desk.used == []


def test_denial_is_noted_with_right_and_line() -> None:
    desk = _Desk()
    call = _Call("fetch", b"")
    error = PermissionDeniedError(plugin="sample", permission="kv", manifest_line='kv = { quota = "1MiB" }', command="annexe grant sample")
    desk.services.note_refusal(cast(PluginCall, call), error)
    (event,) = desk.events.latest()
    assert event.facts == {"method": "fetch", "permission": "kv", "manifest_line": 'kv = { quota = "1MiB" }'}


def test_value_of_an_event_is_not_decoded() -> None:
    desk = _Desk()
    value = b"\xc1"  # which nothing can be
    assert desk.ask("event.publish", b"\x82\xa5topic\xa6a.done\xa5value" + msgspec.msgpack.encode([1, "x"])) == 3
    with pytest.raises(InvalidParamsError):
        desk.ask("event.publish", b"\x82\xa5topic\xa6a.done\xa5value" + value)
    assert desk.published == [("a.done", msgspec.msgpack.encode([1, "x"]))]
    assert desk.used == ["events.publish:a.done"]
    desk.services.withdraw()
    with pytest.raises(PermissionDeniedError):
        desk.ask("event.publish", msgspec.msgpack.encode({"topic": "a.done", "value": 1}))


@pytest.mark.parametrize(
    "params",
    [
        pytest.param({"topic": "a.done"}, id="no value"),
        pytest.param({"value": 1}, id="no topic"),
        pytest.param({"topic": 5, "value": 1}, id="number for topic"),
        pytest.param({"topic": "Not a name", "value": 1}, id="no name"),
        pytest.param({"topic": "a.done", "value": 1, "publisher": "another"}, id="claims a publisher"),
        pytest.param(["a.done", 1], id="array"),
        pytest.param({"topic": "a.done", "value": "v" * 70_000}, id="long"),
    ],
)
def test_request_to_publish_that_does_not_fit_is_refused(params: Any) -> None:
    desk = _Desk()
    with pytest.raises(InvalidParamsError, match=r"event\.publish: "):
        desk.ask("event.publish", msgspec.msgpack.encode(params))
    assert not desk.published and not desk.used


def test_event_that_was_not_granted_is_refused_with_its_line() -> None:
    desk = _Desk()
    with pytest.raises(PermissionDeniedError) as denied:
        desk.ask("event.publish", msgspec.msgpack.encode({"topic": "b.done", "value": 1}))
    assert denied.value.data["manifest_line"] == 'events = { publish = ["b.done"] }'
    assert not desk.published and not desk.used


def test_hook_is_called_by_whoever_defines_it_and_was_granted_it_alone() -> None:
    text = _MANIFEST + b'[provides.hook-specs]\n"a.own" = { schema = "a.json", kind = "filter" }\n'
    manifest = parse_manifest(text, source="test")
    hooks = {"a.own": lambda _: "called"}

    def made(granted: frozenset[str]) -> PluginServices:
        return PluginServices(
            manifest,
            granted,
            kv=None,
            capabilities={},
            services={},
            log=cast(PluginLog, _Log()),
            metrics=cast(PluginMetrics, None),
            events=Events(StillClock()),
            instance="sample-1",
            grant_command="annexe grant sample",
            hooks=hooks,
        )

    def call(method: str) -> PluginCall:
        found: Any = SimpleNamespace(method=method)
        return cast(PluginCall, found)

    services = made(frozenset({"define:a.own"}))
    assert services.serve(call("hook.a.own")) == "called"
    with pytest.raises(PermissionDeniedError, match=r"calls hook 'a\.other', which it does not define"):
        services.serve(call("hook.a.other"))
    with pytest.raises(MethodNotFoundError):
        services.serve(call("hook.nothing"))
    services.withdraw()
    with pytest.raises(PermissionDeniedError):
        services.serve(call("hook.a.own"))
    with pytest.raises(PermissionDeniedError, match=r"has no permission 'define:a\.own'; grant it with: annexe grant sample"):
        made(frozenset()).serve(call("hook.a.own"))
