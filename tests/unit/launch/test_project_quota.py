"""What is asked of the kernel for a project quota, and what is made of its answers."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from pathlib import Path

import pytest

from annexe.launch.project_quota import ProjectQuota, try_project_quota

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can set project quotas")
GET_STATE, GET_QUOTA, SET_QUOTA = 0x5808, 0x800007, 0x800008


class FakeKernel:
    """Keeps quotas and attributes as ext4 does."""

    def __init__(self, *, enforced: bool = True, project: int = 0, refuses: int | None = None, forgets: bool = False) -> None:
        self.flags = 1 << 5 if enforced else 1 << 4
        self.fields = [0x1, 7, 8, project, 9, b"padding!"]
        self.quotas: dict[int, bytes] = {}
        self.refuses = refuses
        self.forgets = forgets

    def attributes(self, fd: int, request: int, buffer: bytearray) -> None:
        if request == 0x801C581F:
            buffer[:] = struct.pack("=IIIII8s", *self.fields)
        else:
            self.fields = list(struct.unpack("=IIIII8s", buffer))

    def quota(self, fd: int, command: int, project: int, buffer: bytearray) -> None:
        if command == self.refuses:
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
        if command == GET_STATE:
            assert buffer[0] == 1
            struct.pack_into("=H", buffer, 2, self.flags)
        elif command == SET_QUOTA:
            self.quotas[project] = bytes(buffer)
        else:
            buffer[:] = bytes(72) if self.forgets else self.quotas[project]


def attempt(folder: Path, kernel: FakeKernel) -> ProjectQuota:
    return try_project_quota(folder, max_bytes=10_000, max_entries=50, calls=kernel)


@needs_root
def test_quota_is_set_for_a_project_of_the_folders_own(tmp_path: Path) -> None:
    kernel = FakeKernel()
    assert attempt(tmp_path, kernel).is_enforced
    project = 0x40000000 | tmp_path.stat().st_ino & 0x3FFFFFFF
    assert kernel.fields == [0x201, 7, 8, project, 9, b"padding!"]  # new files inherit the project; all else stays
    fields = struct.unpack("=8QI4x", kernel.quotas[project])
    assert (fields[0], fields[3], fields[8]) == (10, 50, 5)


@needs_root
def test_quota_is_set_again_for_a_folder_that_has_been_filled_under_it(tmp_path: Path) -> None:
    kernel = FakeKernel()
    attempt(tmp_path, kernel)
    (tmp_path / "file").touch()
    assert attempt(tmp_path, kernel).is_enforced


@needs_root
@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        pytest.param(FakeKernel(refuses=GET_STATE), "no project quotas here", id="without"),
        pytest.param(FakeKernel(enforced=False), "counts project quotas at most", id="counted only"),
        pytest.param(FakeKernel(project=7), "belongs to project 7", id="another project"),
        pytest.param(FakeKernel(refuses=SET_QUOTA), "did not take", id="refused"),
        pytest.param(FakeKernel(refuses=GET_QUOTA), "did not take", id="cannot be read back"),
        pytest.param(FakeKernel(forgets=True), "kept other limits", id="forgotten"),
    ],
)
def test_quota_that_is_not_enforced_is_not_said_to_be(tmp_path: Path, kernel: FakeKernel, reason: str) -> None:
    outcome = attempt(tmp_path, kernel)
    assert not outcome.is_enforced
    assert reason in outcome.reason


@needs_root
def test_folder_that_was_filled_before_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    kernel = FakeKernel()
    assert "held something before" in attempt(tmp_path, kernel).reason
    assert kernel.quotas == {}


@needs_root
def test_folder_that_is_a_link_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/")
    assert "cannot be opened" in attempt(tmp_path / "link", FakeKernel()).reason


@pytest.mark.skipif(os.geteuid() == 0, reason="about hosts that are not root")
def test_host_that_is_not_root_is_told_so(tmp_path: Path) -> None:
    assert attempt(tmp_path, FakeKernel()) == ProjectQuota(False, "only root can set project quotas")


def test_this_machines_kernel_gives_an_answer(tmp_path: Path) -> None:
    outcome = try_project_quota(tmp_path, max_bytes=10_000, max_entries=50)
    assert outcome.reason
    if outcome.is_enforced:  # which it is not for root
        os.chown(tmp_path, 61000, 61000)
        command = ["/bin/sh", "-c", "n=0; while [ $n -lt 100 ] && : > $n; do n=$((n + 1)); done"]
        done = subprocess.run(command, cwd=tmp_path, user=61000, group=61000, extra_groups=[], capture_output=True, text=True)
        assert "quota" in done.stderr
        assert len(list(tmp_path.iterdir())) == 49  # and the folder itself
