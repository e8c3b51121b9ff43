"""The fork server's own parts that need no fork: what it imports, and how it tidies up."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

pytest.importorskip("posix", reason="fork servers are for Linux")

from annexe.sandbox import fork_server


def test_preloading_leaves_to_the_plugin_what_may_be_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken_one.py").write_text("")
    (tmp_path / "free_one.py").write_text("import free_two\n")
    (tmp_path / "free_two.py").write_text("")
    (tmp_path / "needs_taken.py").write_text("import free_two, taken_one\n")
    (tmp_path / "broken.py").write_text("raise RuntimeError\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before, finders = set(sys.modules), list(sys.meta_path)
    fork_server._preload(["broken", "needs_taken", "taken_one", "nowhere", "free_one"], ["taken_one"])
    new = set(sys.modules) - before
    assert new == {"free_one", "free_two"}
    assert sys.meta_path == finders
    for name in new:
        monkeypatch.delitem(sys.modules, name)


def test_folder_is_emptied_however_deep_and_closed_it_is_and_no_link_is_followed(tmp_path: Path) -> None:
    outside, private = tmp_path / "outside", tmp_path / "private"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    private.mkdir(mode=0o750)
    (private / "file").write_text("")
    (private / "link").symlink_to(outside)
    (private / "closed").mkdir()
    (private / "closed" / "file").write_text("")
    (private / "closed" / "link").symlink_to(outside / "kept")
    (private / "closed").chmod(0)
    here = os.open(private, os.O_RDONLY)
    for _ in range(2000):  # deeper than a path may be long, and than Python recurses
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    private.chmod(0)
    fork_server._tidy([(str(private), 0o750)])
    assert list(private.iterdir()) == []
    assert private.stat().st_mode & 0o777 == 0o750
    assert (outside / "kept").read_text() == "kept"


def test_fork_that_is_handed_no_door_waits_until_the_host_has_put_it_there() -> None:
    host, fork = socket.socketpair()
    with host, fork:
        socket.send_fds(host, [b"d"], [])
        host.sendall(b"g")
        fork_server.join(fork.fileno())
        assert host.recv(10) == b"?"


def test_fork_writes_to_each_door_and_closes_it(tmp_path: Path) -> None:
    host, fork = socket.socketpair()
    doors = [os.open(tmp_path / name, os.O_WRONLY | os.O_CREAT) for name in ("cpu", "memory")]
    with host, fork:
        socket.send_fds(host, [b"d"], doors)
        before = len(os.listdir("/proc/self/fd"))
        fork_server.join(fork.fileno())
        assert host.recv(10) == b"."
        assert len(os.listdir("/proc/self/fd")) == before
        assert fork.fileno() >= 0
    assert [(tmp_path / name).read_text() for name in ("cpu", "memory")] == ["0", "0"]
    for door in doors:
        os.close(door)


def test_door_that_does_not_open_is_said(tmp_path: Path) -> None:
    host, fork = socket.socketpair()
    reader, writer = os.pipe()
    with host, fork:
        socket.send_fds(host, [b"d"], [reader])  # which cannot be written to
        host.sendall(b"g")
        fork_server.join(fork.fileno())
        assert host.recv(10) == b"?"
    os.close(reader)
    os.close(writer)
