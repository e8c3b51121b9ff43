"""Copies of plugins that their own user could not read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from annexe.errors import LaunchError
from annexe.launch import copies as room
from annexe.launch.copies import PluginCopies


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "pkg").mkdir(parents=True)
    (folder / "pkg" / "mod.py").write_text("x = 1\n")
    (folder / "tool").write_text("#!/bin/sh\n")
    (folder / "tool").chmod(0o700)
    (folder / "pkg" / "mod.py").chmod(0o600)
    return folder


@pytest.fixture
def shelf(tmp_path: Path) -> PluginCopies:
    return PluginCopies(tmp_path / "cache")


def test_copy_is_readable_by_all_and_keeps_times_and_programs(source: Path, shelf: PluginCopies) -> None:
    copy = shelf.publish(source, plugin="p")
    assert (copy / "pkg" / "mod.py").read_text() == "x = 1\n"
    modes = {path.name: path.stat().st_mode & 0o777 for path in [copy, *copy.rglob("*")]}
    assert modes == {copy.name: 0o755, "pkg": 0o755, "mod.py": 0o644, "tool": 0o755}
    assert (copy / "pkg" / "mod.py").stat().st_mtime_ns == (source / "pkg" / "mod.py").stat().st_mtime_ns


def test_copy_is_named_by_content(source: Path, shelf: PluginCopies) -> None:
    first = shelf.publish(source, plugin="p")
    assert shelf.publish(source, plugin="p") == first
    (source / "pkg" / "mod.py").write_text("x = 2\n")
    second = shelf.publish(source, plugin="p")
    assert second != first
    assert (first / "pkg" / "mod.py").read_text() == "x = 1\n"
    (source / "tool").chmod(0o600)
    assert shelf.publish(source, plugin="p") not in (first, second)


def test_copy_leaves_out_what_is_not_the_plugin(source: Path, shelf: PluginCopies) -> None:
    (source / ".git").mkdir()
    (source / ".git" / "config").touch()
    (source / ".env").write_text("SECRET=1")
    os.mkfifo(source / "pipe")
    copy = shelf.publish(source, plugin="p")
    assert sorted(os.listdir(copy)) == ["pkg", "tool"]


@pytest.mark.parametrize(
    "target", ["/etc/shadow", "../../secret", "pkg/up/../../../secret", "loop"], ids=["absolute", "upwards", "through another", "loop"]
)
def test_copy_never_publishes_what_a_link_leads_to_outside(source: Path, shelf: PluginCopies, tmp_path: Path, target: str) -> None:
    (tmp_path / "secret").write_text("hunter2")
    (source / "pkg" / "up").symlink_to("../..")
    (source / "loop").symlink_to("loop")
    (source / "pkg" / "inside.py").symlink_to("mod.py")
    (source / "leak").symlink_to(target)
    copy = shelf.publish(source, plugin="p")
    assert os.readlink(copy / "pkg" / "inside.py") == "mod.py"
    assert not os.path.lexists(copy / "pkg" / "up")
    assert not any(path.is_file() and "hunter2" in path.read_text() for path in copy.rglob("*"))
    assert target == "loop" or not os.path.lexists(copy / "leak")


def test_copy_of_a_huge_folder_is_refused(source: Path, shelf: PluginCopies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_MAX_BYTES", 10)
    with pytest.raises(LaunchError, match="all users can read") as caught:
        shelf.publish(source, plugin="p")
    assert (caught.value.plugin, caught.value.data) == ("p", {"limit_bytes": 10})


def test_copies_of_one_plugin_are_few(source: Path, shelf: PluginCopies) -> None:
    made = []
    for step in range(12):
        (source / "pkg" / "mod.py").write_text(f"x = {step}\n")
        made.append(shelf.publish(source, plugin="p"))
        os.utime(made[-1], (step, step))
    assert made[-1].is_dir()
    assert len(os.listdir(made[-1].parent)) <= 9
    assert not made[0].exists()


def test_copy_that_goes_while_others_are_looked_at_is_nobodys_fault(source: Path, shelf: PluginCopies, tmp_path: Path) -> None:
    """Another host, or another start of this one, removes the oldest copies at the same time."""
    shelf.publish(source, plugin="p")
    (tmp_path / "cache" / "p" / "gone").symlink_to("nowhere")  # there by name, and not when it is looked at
    (source / "tool").write_text("#!/bin/sh\nexit 1\n")
    assert shelf.publish(source, plugin="p").is_dir()
