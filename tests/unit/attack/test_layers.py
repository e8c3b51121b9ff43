"""Which layers are on: as the receipt says, in the words of the attacks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from annexe.attack.catalogue import LAYERS
from annexe.attack.layers import layers_on
from annexe.sandbox import Walls
from annexe.sandbox.receipt import receipt_for
from tests.unit.launch.test_strategy import put_up
from tests.unit.sandbox.walls import FULL, INSIDE, NONE


def test_every_layer_is_on_behind_all_walls_as_the_launcher_tells_of_them() -> None:
    assert layers_on(put_up(FULL).receipt()) == set(LAYERS)


def test_no_new_privileges_is_no_layer_where_the_kernel_knows_of_none() -> None:
    assert layers_on(put_up(FULL, is_linux=False).receipt()) == set(LAYERS) - {"no-new-privileges"}


@pytest.mark.parametrize(
    ("walls", "layer"),
    [
        pytest.param(replace(FULL, own_uid=False), "uid", id="user"),
        pytest.param(replace(FULL, namespaces=False), "namespaces", id="namespaces"),
        pytest.param(replace(FULL, seccomp=False), "seccomp", id="filters"),
        pytest.param(replace(FULL, landlock_abi=0), "landlock", id="landlock"),
        pytest.param(replace(FULL, rlimits=False), "rlimits", id="limits"),
        pytest.param(replace(FULL, cgroup=frozenset({"pids"})), "cgroup", id="a control group for tasks alone"),
    ],
)
def test_layer_is_off_where_its_wall_does_not_stand(walls: Walls, layer: str) -> None:
    assert layers_on(put_up(walls).receipt()) == set(LAYERS) - {layer}


def test_without_a_wall_there_is_still_what_every_process_gets() -> None:
    assert layers_on(put_up(NONE).receipt()) == {"host", "environment", "descriptors", "no-new-privileges"}


def test_host_is_always_on() -> None:
    assert layers_on(receipt_for(INSIDE, uid=None, layers=(), tree_kill="none")) == {"host"}
