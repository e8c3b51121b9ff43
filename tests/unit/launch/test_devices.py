"""Device nodes of a granted device."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from annexe.launch.devices import gpu_nodes


def test_machine_without_such_a_processor_has_no_nodes(tmp_path: Path) -> None:
    assert gpu_nodes(tmp_path) == ()
    assert gpu_nodes(tmp_path / "nothing") == ()


def test_what_is_no_device_is_no_node_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "nvidia0").write_text("")
    (tmp_path / "nvidiactl").symlink_to("/dev/null")
    assert gpu_nodes(tmp_path) == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make device nodes")
def test_nodes_for_computing_are_found_and_those_for_screens_are_not(tmp_path: Path) -> None:
    (tmp_path / "dri").mkdir()
    for name in ("nvidia0", "nvidia-uvm", "nvidia", "sda", "dri/renderD128", "dri/card0"):
        os.mknod(tmp_path / name, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert gpu_nodes(tmp_path) == tuple(str(tmp_path / name) for name in ("dri/renderD128", "nvidia-uvm", "nvidia0"))
