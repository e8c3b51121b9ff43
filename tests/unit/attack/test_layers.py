"""Which layers are on: as the receipt says, in the words of the attacks."""

from __future__ import annotations

import pytest

from annexe.attack.catalogue import LAYERS
from annexe.attack.layers import layers_on
from annexe.sandbox.receipt import Layer, LayerState, receipt_for
from tests.unit.sandbox.walls import FULL


def on(*layers: Layer) -> frozenset[str]:
    return layers_on(receipt_for(FULL, uid=1, layers=layers, tree_kill="hard"))


def test_host_is_always_on() -> None:
    assert on() == {"host"}


@pytest.mark.parametrize(
    ("name", "state", "layer"),
    [
        ("environment", "on", "environment"),
        ("descriptors", "on", "descriptors"),
        ("own user", "on", "uid"),
        ("no new privileges", "on", "no-new-privileges"),
        ("namespaces", "on", "namespaces"),
        ("system calls", "on", "seccomp"),
        ("landlock", "on", "landlock"),
        ("file size", "on", "rlimits"),
        ("memory", "on", "cgroup"),
        ("cpu", "on", "cgroup"),
    ],
)
def test_layer_is_on_as_the_receipt_says(name: str, state: LayerState, layer: str) -> None:
    assert on(Layer(name, state)) == {"host", layer}
    assert on(Layer(name, "off")) == {"host"}
    assert layer in LAYERS


def test_soft_memory_is_no_control_group() -> None:
    assert on(Layer("memory", "soft")) == {"host"}
