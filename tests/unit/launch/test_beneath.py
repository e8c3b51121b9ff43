"""Opening what lies in a plugin's folder."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from annexe.errors import SandboxError
from annexe.launch import beneath
from annexe.launch.beneath import open_beneath, read_beneath
from annexe.launch.removal import remove_tree

SECRET = b"the host's secret"

both_ways = pytest.mark.parametrize("by_components", [pytest.param(False, id="openat2"), pytest.param(True, id="by components")])
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes devices, or files of other users")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "secret").write_bytes(SECRET)
    path = tmp_path / "data"
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "file").write_bytes(b"fine")
    yield path
    remove_tree(path)


def reason_of(call: Callable[[], object]) -> str:
    with pytest.raises(SandboxError) as caught:
        call()
    return str(caught.value.data["reason"])


@both_ways
@pytest.mark.parametrize("relative", ["inner/file", "./inner//file", "inner/./file"])
def test_open_beneath_opens_a_file(folder: Path, relative: str, by_components: bool) -> None:
    fd = open_beneath(folder, relative, by_components=by_components)
    assert os.read(fd, 10) == b"fine"
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    os.close(fd)


@both_ways
def test_open_beneath_takes_a_descriptor_and_leaves_it_open(folder: Path, by_components: bool) -> None:
    top = os.open(folder, os.O_RDONLY)
    inner = open_beneath(top, "inner", directory=True, by_components=by_components)
    assert os.listdir(inner) == ["file"]
    assert os.listdir(top) == ["inner"]
    os.close(inner)
    os.close(top)


@both_ways
def test_open_beneath_appends(folder: Path, by_components: bool) -> None:
    fd = open_beneath(folder, "inner/file", flags=os.O_WRONLY | os.O_APPEND, by_components=by_components)
    os.write(fd, b"!")
    os.close(fd)
    assert (folder / "inner" / "file").read_bytes() == b"fine!"


@both_ways
def test_open_beneath_leaks_no_descriptor_when_it_refuses(folder: Path, by_components: bool) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for relative in ("inner", "none", "inner/file/x"):
        reason_of(lambda relative=relative: open_beneath(folder, relative, by_components=by_components))  # type: ignore[misc]
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("relative", ["", ".", "/etc/passwd", "..", "../secret", "inner/../inner/file", "inner/..", "a\0b"])
def test_path_that_is_not_beneath_is_refused(folder: Path, relative: str) -> None:
    assert reason_of(lambda: open_beneath(folder, relative)) == "outside"


@pytest.mark.parametrize("flags", [os.O_CREAT, os.O_TRUNC | os.O_WRONLY, os.O_PATH, os.O_TMPFILE | os.O_RDWR])
def test_flags_that_act_before_the_judgement_are_refused(folder: Path, flags: int) -> None:
    with pytest.raises(ValueError, match="access mode"):
        open_beneath(folder, "inner/file", flags=flags)


@both_ways
@pytest.mark.parametrize(
    ("link", "target", "relative"),
    [
        pytest.param("link", "../secret", "link", id="at the end, out"),
        pytest.param("link", "inner/file", "link", id="at the end, inside"),
        pytest.param("link", "..", "link/secret", id="in the middle, out"),
        pytest.param("link", "/", "link/etc/passwd", id="in the middle, absolute"),
        pytest.param("link", "inner", "link/file", id="in the middle, inside"),
        pytest.param("link", "/proc/self/cwd", "link/x", id="magic"),
        pytest.param("link", "none", "link", id="dangling"),
    ],
)
@pytest.mark.parametrize("directory", [False, True])
def test_link_is_not_followed(folder: Path, link: str, target: str, relative: str, directory: bool, by_components: bool) -> None:
    (folder / link).symlink_to(target)
    assert reason_of(lambda: open_beneath(folder, relative, directory=directory, by_components=by_components)) == "link"


def test_folder_that_is_itself_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert reason_of(lambda: open_beneath(tmp_path / "link", "inner/file")) == "not-a-folder"


@both_ways
@pytest.mark.parametrize(
    ("relative", "directory", "expected"),
    [
        pytest.param("none", False, "missing", id="nothing"),
        pytest.param("none/x", False, "missing", id="nothing on the way"),
        pytest.param("inner", False, "not-a-file", id="folder"),
        pytest.param("inner/file", True, "not-a-folder", id="file"),
        pytest.param("inner/file/x", False, "not-a-folder", id="file on the way"),
        pytest.param("x" * 300, False, "name-too-long", id="long name"),
    ],
)
def test_what_is_not_as_expected_is_refused(folder: Path, relative: str, directory: bool, expected: str, by_components: bool) -> None:
    assert reason_of(lambda: open_beneath(folder, relative, directory=directory, by_components=by_components)) == expected


@both_ways
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_pipe_is_refused_without_waiting(folder: Path, flags: int, by_components: bool) -> None:
    os.mkfifo(folder / "pipe")
    assert reason_of(lambda: open_beneath(folder, "pipe", flags=flags, by_components=by_components)) == "not-a-file"


@both_ways
def test_socket_is_refused(folder: Path, by_components: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert reason_of(lambda: open_beneath(folder, "socket", by_components=by_components)) == "not-a-file"


@needs_root
@both_ways
def test_device_is_refused(folder: Path, by_components: bool) -> None:
    os.mknod(folder / "null", 0o20666, os.makedev(1, 3))
    assert reason_of(lambda: open_beneath(folder, "null", by_components=by_components)) == "not-a-file"


@both_ways
def test_sparse_file_of_terabytes_is_refused(folder: Path, by_components: bool) -> None:
    with (folder / "sparse").open("wb") as file:
        file.truncate(4 * 1024**4)
    with pytest.raises(SandboxError, match="4398046511104") as caught:
        open_beneath(folder, "sparse", max_bytes=1024, by_components=by_components)
    assert caught.value.data == {"path": "sparse", "reason": "too-big", "limit_bytes": 1024, "actual_bytes": 4 * 1024**4}


@both_ways
def test_file_that_is_leased_is_refused_without_waiting(folder: Path, by_components: bool) -> None:
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    holder = os.open(folder / "inner" / "file", os.O_RDWR)
    try:
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        assert reason_of(lambda: open_beneath(folder, "inner/file", by_components=by_components)) == "held"
    finally:
        os.close(holder)
        signal.signal(signal.SIGIO, before)


@needs_root
def test_hard_link_to_a_file_of_somebody_elses_is_refused(folder: Path, tmp_path: Path) -> None:
    os.link(tmp_path / "secret", folder / "mine")
    with pytest.raises(SandboxError) as caught:
        read_beneath(folder, "mine", max_bytes=100, owner=61399)
    assert caught.value.data == {"path": "mine", "reason": "other-owner", "expected": 61399, "actual": 0}
    os.chown(folder / "inner" / "file", 61399, 61399)
    assert read_beneath(folder, "inner/file", max_bytes=100, owner=61399) == b"fine"


def test_name_with_escapes_is_told_harmlessly(folder: Path) -> None:
    with pytest.raises(SandboxError) as caught:
        open_beneath(folder, "\x1b[2J\udcff")
    assert "\x1b" not in caught.value.message
    caught.value.message.encode()


def test_read_beneath_returns_the_whole_file(folder: Path) -> None:
    assert read_beneath(folder, "inner/file", max_bytes=4) == b"fine"
    assert reason_of(lambda: read_beneath(folder, "inner/file", max_bytes=3)) == "too-big"


def test_file_that_grows_while_it_is_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def grow(folder: int | Path, relative: str, **rules: Any) -> int:
        fd = open_beneath(folder, relative, **rules)
        with (tmp := Path(f"/proc/self/fd/{fd}")).open("ab") as file:
            file.write(b"x" * 100)
        assert tmp.stat().st_size == 104
        return fd

    monkeypatch.setattr(beneath, "open_beneath", grow)
    assert reason_of(lambda: read_beneath(folder, "inner/file", max_bytes=50)) == "too-big"


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
def test_kernel_or_filter_that_does_not_know_openat2_is_done_without(folder: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        asked = 0

        def syscall(self, *_: object) -> int:
            import ctypes

            self.asked += 1
            ctypes.set_errno(code)
            return -1

    kernel = Kernel()
    monkeypatch.setattr(beneath, "_libc", lambda: kernel)
    assert read_beneath(folder, "inner/file", max_bytes=10) == b"fine"
    (folder / "link").symlink_to("../secret")
    assert reason_of(lambda: open_beneath(folder, "link")) == "link"
    assert kernel.asked == 2


@both_ways
@pytest.mark.parametrize("relative", [pytest.param("inner/file", id="in the middle"), pytest.param("file", id="at the end")])
def test_names_that_are_exchanged_all_the_time_never_lead_out(folder: Path, tmp_path: Path, relative: str, by_components: bool) -> None:
    (tmp_path / "file").write_bytes(SECRET)
    (folder / "file").write_bytes(b"fine")
    (folder / "bait").symlink_to(".." if "/" in relative else "../secret")
    name = relative.partition("/")[0]
    stop = threading.Event()

    def exchange() -> None:
        top = os.open(folder, os.O_RDONLY)
        while not stop.is_set():
            for source, target in ((name, "aside"), ("bait", name), (name, "bait"), ("aside", name)):
                os.rename(source, target, src_dir_fd=top, dst_dir_fd=top)
        os.close(top)

    thread = threading.Thread(target=exchange)
    thread.start()
    outcomes = set[str | bytes]()
    try:
        for tried in range(300_000):
            if tried >= 3000 and {b"fine", "link"} <= outcomes:  # on a busy machine the other thread has its turns late
                break
            try:
                fd = open_beneath(folder, relative, by_components=by_components)
                outcomes.add(os.read(fd, 100))
                os.close(fd)
            except SandboxError as error:
                outcomes.add(error.data["reason"])
    finally:
        stop.set()
        thread.join()
    assert SECRET not in outcomes
    assert {b"fine", "link"} <= outcomes
