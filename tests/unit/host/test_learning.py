from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from annexe import Host
from annexe.capabilities.egress import EVERY_TARGET
from annexe.channel import ChannelLimits
from annexe.host.learning import Learning
from annexe.launch import LaunchRequest
from annexe.manifest.model import Manifest, Permissions, Runtime
from annexe.sandbox import IsolationLevel
from annexe.supervision.instance import InstancePlan


class Notes(list[tuple[str, str]]):
    def note(self, kind: str, what: str) -> None:
        self.append((kind, what))


def learning(notes: Notes, rights: frozenset[str] | None = None) -> Learning:
    return Learning(plugin="demo", note=notes.note, rights=rights)


def plan(plugin: str = "demo", told: list[str] | None = None) -> InstancePlan:
    return InstancePlan(
        launch=LaunchRequest(
            plugin=plugin, instance=f"{plugin}-1", kind="python", entry="demo", folder=Path("/plugins/demo"), floor=IsolationLevel.FULL
        ),
        limits=ChannelLimits(),
        start_timeout_s=1.0,
        host={},
        version="1.0.0",
        activation={"config": {}, "data_dir": "/var/data/demo"},
        serve=cast(Any, None),
        on_refused=cast(Any, None),
        on_notification=lambda method, *_: (told if told is not None else []).append(method),
        check=cast(Any, None),
    )


def test_a_plugin_that_is_learned_has_all_that_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMO_MODE", "fast")
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    asked = frozenset({"kv", "filesystem.read:/no/such", "secrets:key"})
    granted = learning(Notes()).granted("demo", asked, capabilities=["orders"])
    assert {"kv", "data", "subprocess", "cap:orders", "env:DEMO_MODE", "devices:gpu", "secrets:key", EVERY_TARGET} <= granted
    assert "env:PYTHONHASHSEED" not in granted
    assert "filesystem.read:/no/such" not in granted
    assert learning(Notes()).granted("other", asked, capabilities=["orders"]) == asked


def test_a_plugin_that_is_tried_has_what_was_learned_whatever_it_asks_for() -> None:
    rights = frozenset({"kv", "network:a.example:443"})
    trying = learning(Notes(), rights)
    assert trying.granted("demo", frozenset({"subprocess"}), capabilities=["orders"]) == rights
    manifest = Manifest(id="demo", version="1.0.0", runtime=Runtime(kind="python"), permissions=Permissions(subprocess=True))
    assert trying.asking_for(rights, manifest).permission_set() == rights
    assert trying.asking_for(rights, replace(manifest, id="other")).permission_set() == {"subprocess"}


def test_uses_are_noted_of_that_plugin_alone_and_told_on() -> None:
    notes, told = Notes(), list[str]()
    learning(notes).telling("demo", told.append)("kv")
    learning(notes).telling("other", told.append)("cap:orders")
    assert notes == [("right", "kv")]
    assert told == ["kv", "cap:orders"]


def test_an_instance_is_told_to_record_and_what_it_tells_is_noted() -> None:
    notes, told = Notes(), list[str]()
    made = learning(notes).planned(plan(told=told))
    assert made.activation == {"config": {}, "data_dir": "/var/data/demo", "record": "/plugins/demo"}
    assert made.launch.floor is IsolationLevel.NONE
    sent = {"facts": [["read", "/srv/a"], ["write", "/var/data/demo/x"], ["list", "/var/data/demo"], ["connect", "/var/data/demo"]]}
    made.on_notification("used", msgspec.Raw(msgspec.json.encode(sent)), "json", None)
    made.on_notification("used", msgspec.Raw(msgspec.msgpack.encode({"facts": [["start", "ls"]]})), "msgpack", None)
    made.on_notification("used", msgspec.Raw(b'{"facts": 3}'), "json", None)
    made.on_notification("log", msgspec.Raw(b"{}"), "json", None)
    assert notes == [("read", "/srv/a"), ("right", "data"), ("right", "data"), ("connect", "/var/data/demo"), ("start", "ls")]
    assert told == ["log"]


def test_an_instance_that_is_tried_stands_behind_its_walls_and_is_not_recorded() -> None:
    made = learning(Notes(), frozenset()).planned(plan())
    assert made.launch.floor is IsolationLevel.FULL
    assert "record" not in made.activation
    assert learning(Notes(), frozenset()).offers() is None
    assert learning(Notes()).offers() is not None


def test_another_plugin_is_launched_as_ever() -> None:
    other = plan("other")
    assert learning(Notes()).planned(other) is other


def test_no_host_in_production_learns() -> None:
    with pytest.raises(ValueError, match="unsafe_learning"):
        Host(production=True, unsafe_learning=learning(Notes()))
