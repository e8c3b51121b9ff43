"""Memory files are sealed so that whoever inherits them can take nothing from the host."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import sys
from collections.abc import Callable, Iterator

import pytest

from annexe.channel.memory_files import MemoryFiles

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files are Linux's")

SIZE = 1024 * 1024
IN, OUT = 0, 1


@pytest.fixture
def files() -> Iterator[MemoryFiles]:
    made = MemoryFiles.make(SIZE)
    assert made is not None
    yield made
    made.close()


def fd(files: MemoryFiles, which: int) -> int:
    assert files.descriptors is not None
    return files.descriptors[which]


def refused(call: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as error:
        call()
    return error.value.errno


def read_only_maps() -> set[int]:
    with open("/proc/self/maps") as maps:
        return {int(line.split("-")[0], 16) for line in maps if "annexe-to-plugin" in line and " r--s " in line}


def test_what_the_host_writes_is_read_through_the_inherited_descriptor(files: MemoryFiles) -> None:
    theirs = mmap.mmap(fd(files, IN), SIZE, prot=mmap.PROT_READ)
    files.to_plugin[100:105] = b"hello"
    assert theirs[100:105] == b"hello"


def test_what_the_plugin_writes_is_read_by_the_host(files: MemoryFiles) -> None:
    theirs = mmap.mmap(fd(files, OUT), SIZE)
    theirs[SIZE - 5 :] = b"hello"
    assert files.from_plugin[SIZE - 5 :] == b"hello"


@pytest.mark.parametrize("which", [IN, OUT])
@pytest.mark.parametrize("size", [0, SIZE // 2, SIZE * 2])
def test_neither_file_changes_its_size(files: MemoryFiles, which: int, size: int) -> None:
    assert refused(lambda: os.ftruncate(fd(files, which), size)) == errno.EPERM
    assert os.fstat(fd(files, which)).st_size == SIZE


@pytest.mark.parametrize("which", [IN, OUT])
def test_neither_file_takes_another_seal(files: MemoryFiles, which: int) -> None:
    """A seal against writing on the file to the plugin would take the host's own map for what it is no more."""
    assert refused(lambda: fcntl.fcntl(fd(files, which), fcntl.F_ADD_SEALS, 0x08)) == errno.EPERM


def test_the_file_to_the_plugin_is_not_mapped_for_writing() -> None:
    files = MemoryFiles.make(SIZE)
    assert files is not None
    assert refused(lambda: mmap.mmap(fd(files, IN), SIZE)) == errno.EPERM
    assert refused(lambda: os.write(fd(files, IN), b"x")) == errno.EPERM
    again = os.open(f"/proc/self/fd/{fd(files, IN)}", os.O_RDWR)
    assert refused(lambda: mmap.mmap(again, SIZE)) == errno.EPERM
    os.close(again)
    files.close()


def test_a_map_for_reading_is_not_made_writable(files: MemoryFiles) -> None:
    before = read_only_maps()
    theirs = mmap.mmap(fd(files, IN), SIZE, prot=mmap.PROT_READ)
    (start,) = read_only_maps() - before
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(SIZE), mmap.PROT_READ | mmap.PROT_WRITE) == -1
    assert ctypes.get_errno() == errno.EACCES
    theirs.close()


def test_holes_punched_into_the_file_from_the_plugin_are_read_as_nothing(files: MemoryFiles) -> None:
    theirs = mmap.mmap(fd(files, OUT), SIZE)
    theirs[:5] = b"hello"
    assert files.from_plugin[:5] == b"hello"
    theirs.madvise(mmap.MADV_REMOVE)
    assert files.from_plugin[:5] == bytes(5)


def test_the_host_cannot_write_the_file_from_the_plugin(files: MemoryFiles) -> None:
    with pytest.raises(TypeError):
        files.from_plugin[:5] = b"hello"


@pytest.mark.parametrize("which", [IN, OUT])
def test_neither_file_can_be_executed(files: MemoryFiles, which: int) -> None:
    assert os.fstat(fd(files, which)).st_mode & 0o777 == 0o600


def test_pages_exist_only_once_they_are_touched(files: MemoryFiles) -> None:
    assert [os.fstat(fd(files, which)).st_blocks for which in (IN, OUT)] == [0, 0]
    files.to_plugin[:1] = b"x"
    assert os.fstat(fd(files, IN)).st_blocks * 512 == mmap.PAGESIZE


def test_maps_outlive_the_descriptors(files: MemoryFiles) -> None:
    opened = files.descriptors
    assert opened is not None
    files.close_descriptors()
    files.close_descriptors()
    assert (files.descriptors, files.told) == (None, opened)
    files.to_plugin[:2] = b"ok"
    assert files.to_plugin[:2] == b"ok"
    assert refused(lambda: os.fstat(opened[0])) == errno.EBADF


def test_closing_gives_all_back(files: MemoryFiles) -> None:
    opened = files.descriptors
    files.close()
    files.close()
    assert opened is not None
    assert refused(lambda: os.fstat(opened[OUT])) == errno.EBADF
    with pytest.raises(ValueError, match="closed"):
        files.to_plugin[:1]


def test_descriptors_are_not_inherited_unasked(files: MemoryFiles) -> None:
    assert not any(map(os.get_inheritable, files.descriptors or ()))


@pytest.mark.parametrize(("size", "platform"), [(SIZE, "darwin"), (SIZE, "win32"), (0, "linux")])
def test_where_they_cannot_be_had_there_are_none(size: int, platform: str) -> None:
    assert MemoryFiles.make(size, platform=platform) is None


def test_what_cannot_be_mapped_is_given_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    assert MemoryFiles.make(2**62) is None
    assert len(os.listdir("/proc/self/fd")) == before
