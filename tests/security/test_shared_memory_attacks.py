"""A plugin turns against the memory that it shares with the host: every way out of it is refused by the kernel, or harmless."""

# mypy: disable-error-code="empty-body"
from __future__ import annotations

import sys
from pathlib import Path

import pytest

from annexe import ExtensionPoint, Host
from tests.process.hosts import connection_of, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files are Linux's")

LONG = bytes(range(256)) * 4096


class Target(ExtensionPoint, name="target", revision=1):
    async def attack(self, name: str) -> str: ...

    async def echo(self, data: bytes) -> bytes: ...


CODE = """
import ctypes
import errno
import mmap
import os

from annexe_sdk import Plugin

plugin = Plugin()
IN, OUT = 4, 5
SIZE = os.fstat(IN).st_size
F_ADD_SEALS, F_SEAL_WRITE = 1033, 8


def seal(fd):
    import fcntl

    fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE)


def map_for_reading_and_make_it_writable():
    shared = mmap.mmap(IN, SIZE, prot=mmap.PROT_READ)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    place = libc.mmap(None, ctypes.c_size_t(4096), mmap.PROT_READ, mmap.MAP_SHARED, IN, 0)
    if libc.mprotect(ctypes.c_void_p(place), ctypes.c_size_t(4096), mmap.PROT_READ | mmap.PROT_WRITE) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    shared.close()


def write_over_what_the_host_sent():
    os.pwrite(IN, b"x" * 4096, 0)


def make_memory_of_its_own():
    if not hasattr(os, "memfd_create"):
        raise PermissionError(errno.EPERM, "no memfd_create")
    os.memfd_create("mine")


ATTACKS = {
    "shrink-in": lambda: os.ftruncate(IN, 0),
    "shrink-out": lambda: os.ftruncate(OUT, 0),
    "grow-in": lambda: os.ftruncate(IN, 2 * SIZE),
    "grow-out": lambda: os.ftruncate(OUT, 2 * SIZE),
    "write-by-map": lambda: mmap.mmap(IN, SIZE),
    "write-by-call": write_over_what_the_host_sent,
    "write-by-mprotect": map_for_reading_and_make_it_writable,
    "open-anew": lambda: mmap.mmap(os.open(f"/proc/self/fd/{IN}", os.O_RDWR), SIZE),
    "seal-in": lambda: seal(IN),
    "seal-out": lambda: seal(OUT),
    "own-memory": make_memory_of_its_own,
    "execute": lambda: os.execve(OUT, ["x"], {}),
}


@plugin.extension("target")
class Attacks:
    def attack(self, name):
        try:
            ATTACKS[name]()
        except (OSError, ValueError) as error:
            return type(error).__name__
        return "went through"

    def echo(self, data):
        return data


def holes():
    shared = mmap.mmap(OUT, SIZE)
    shared[:] = b"x" * SIZE
    shared.madvise(mmap.MADV_REMOVE)


ATTACKS["holes"] = holes
"""

MANIFEST = """
manifest-version = 1
[plugin]
id = "attacker"
version = "1.0.0"
name = "attacker"
[runtime]
kind = "python"
entry = "attacks"
[provides.extensions]
"target" = { revision = 1 }
[resources]
memory = "256MiB"
call-timeout = "10s"
"""


def attacked(tmp_path: Path, name: str, strategy: str = "process") -> str:
    """Return what became of an attack; afterwards host and plugin must still share memory."""
    folder = tmp_path / "plugins" / "attacker"
    folder.mkdir(parents=True)
    (folder / "plugin.toml").write_text(MANIFEST)
    (folder / "attacks.py").write_text(CODE)

    async def scenario() -> str:
        async with Host(
            plugins=tmp_path / "plugins",
            contracts=[Target],
            grants="manifest",
            state_dir=tmp_path / "state",
            control=False,
            strategy=strategy,  # type: ignore[arg-type]
        ) as host:
            outcome = await host.extension(Target).attack(name)
            assert await host.extension(Target).echo(LONG) == LONG
            arenas = connection_of(host, "attacker").arenas
            assert arenas is not None
            assert arenas.placed  # by the echo: it did not go through the frame
            return outcome

    return run(scenario)


@pytest.mark.parametrize("name", ["shrink-in", "shrink-out"])
def test_shared_memory_cannot_be_shrunk_to_kill_the_host(tmp_path: Path, name: str) -> None:
    assert attacked(tmp_path, name) == "PermissionError"


@pytest.mark.parametrize("name", ["grow-in", "grow-out"])
def test_shared_memory_cannot_be_grown(tmp_path: Path, name: str) -> None:
    assert attacked(tmp_path, name) in ("PermissionError", "OSError")  # the limit on the size of files is found first


@pytest.mark.parametrize("name", ["write-by-map", "write-by-call", "write-by-mprotect", "open-anew"])
def test_what_the_host_sends_cannot_be_overwritten(tmp_path: Path, name: str) -> None:
    assert attacked(tmp_path, name) == "PermissionError"


@pytest.mark.parametrize("name", ["seal-in", "seal-out"])
def test_shared_memory_cannot_be_sealed_against_the_host(tmp_path: Path, name: str) -> None:
    assert attacked(tmp_path, name) == "PermissionError"


def test_shared_memory_cannot_be_sealed_by_a_fork_either(tmp_path: Path) -> None:
    assert attacked(tmp_path, "seal-in", "zygote") == "PermissionError"


def test_plugin_makes_no_shared_memory_of_its_own(tmp_path: Path) -> None:
    assert attacked(tmp_path, "own-memory") == "PermissionError"


def test_shared_memory_cannot_be_executed(tmp_path: Path) -> None:
    assert attacked(tmp_path, "execute") == "PermissionError"


def test_memory_taken_away_page_by_page_does_not_kill_the_host(tmp_path: Path) -> None:
    assert attacked(tmp_path, "holes") in ("went through", "PermissionError")
