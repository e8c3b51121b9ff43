"""The memory and the descriptors of other processes."""

from __future__ import annotations

import ctypes
import os
import socket
import struct

from .catalogue import attack
from .outcome import stopped, through
from .syscalls import syscall

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []

_PTRACE_PEEKDATA, _PTRACE_DETACH, _PTRACE_SEIZE, _PTRACE_INTERRUPT = 2, 17, 0x4206, 0x4207
_SO_PEERPIDFD = 77
_WORD = 8


class _Span(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def _span(address: int, size: int) -> _Span:
    return _Span(address, size)


def _memory_of(pid: int, address: int, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    mine, theirs = _span(ctypes.addressof(buffer), size), _span(address, size)
    syscall("process_vm_readv", pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)
    return buffer.raw


@attack("trace-victim", "Attach to another process as a debugger and read its memory.", stopped_by=("namespaces", "landlock", "seccomp"))
def _trace_victim(targets: Targets) -> Outcome:
    pid = targets.victim_pid
    syscall("ptrace", _PTRACE_SEIZE, pid, 0, 0)
    syscall("ptrace", _PTRACE_INTERRUPT, pid, 0, 0)
    os.waitpid(pid, 0x40000000)  # __WALL
    words = b""
    try:
        for offset in range(0, len(targets.token), _WORD):
            word = ctypes.c_long()
            syscall("ptrace", _PTRACE_PEEKDATA, pid, targets.victim_address + offset, ctypes.byref(word))
            words += bytes(word)
    finally:
        syscall("ptrace", _PTRACE_DETACH, pid, 0, 0)
    return through("read it") if targets.has_token(words) else stopped("it is not the victim's")


@attack("read-victim", "Read another process's memory.", stopped_by=("namespaces", "landlock", "seccomp"))
def _read_victim(targets: Targets) -> Outcome:
    content = _memory_of(targets.victim_pid, targets.victim_address, len(targets.token))
    return through("read it") if targets.has_token(content) else stopped("it is not the victim's")


@attack("write-victim", "Write into another process's memory.", stopped_by=("namespaces", "landlock", "seccomp"))
def _write_victim(targets: Targets) -> Outcome:
    wanted = targets.token.swapcase().encode()
    buffer = ctypes.create_string_buffer(wanted, len(wanted))
    mine, theirs = _span(ctypes.addressof(buffer), len(wanted)), _span(targets.victim_address, len(wanted))
    syscall("process_vm_writev", targets.victim_pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)
    there = _memory_of(targets.victim_pid, targets.victim_address, len(wanted))
    return through("wrote it, and read it back") if there == wanted else stopped("it is not there")


@attack("victim-memory-file", "Read another process's memory through /proc.", stopped_by=("namespaces", "landlock"))
def _victim_memory_file(targets: Targets) -> Outcome:
    fd = os.open(f"/proc/{targets.victim_pid}/mem", os.O_RDONLY)
    try:
        content = os.pread(fd, len(targets.token), targets.victim_address)
    finally:
        os.close(fd)
    return through("read it") if targets.has_token(content) else stopped("it is not the victim's")


@attack("victim-map", "Learn where another process has what in memory.", stopped_by=("namespaces", "landlock"))
def _victim_map(targets: Targets) -> Outcome:
    with open(f"/proc/{targets.victim_pid}/maps", "rb") as file:
        content = file.read()
    return through(f"read {len(content)} bytes") if content else stopped("it is empty")


@attack("read-host", "Read the host's memory.", stopped_by=("namespaces", "landlock", "seccomp", "uid"))
def _read_host(targets: Targets) -> Outcome:
    content = _memory_of(targets.host_pid, targets.host_address, len(targets.token))
    return through("read it") if targets.has_token(content) else stopped("it is not the host's")


@attack("host-memory-file", "Read the host's memory through /proc.", stopped_by=("namespaces", "landlock", "uid"))
def _host_memory_file(targets: Targets) -> Outcome:
    fd = os.open(f"/proc/{targets.host_pid}/mem", os.O_RDONLY)
    try:
        content = os.pread(fd, len(targets.token), targets.host_address)
    finally:
        os.close(fd)
    return through("read it") if targets.has_token(content) else stopped("it is not the host's")


@attack(
    "read-parent",
    "Read the memory of whoever started this process: host, stub or fork server.",
    stopped_by=("namespaces", "landlock", "seccomp", "uid"),
)
def _read_parent(_targets: Targets) -> Outcome:
    try:
        # Address 0 is never there; but whoever may not look is told EPERM before that is found out.
        _memory_of(os.getppid(), 0, 1)
    except OSError as error:
        if error.errno != 14:  # EFAULT
            raise
    return through(f"may read process {os.getppid()}")


@attack("read-other-plugin", "Read the memory of another plugin.", stopped_by=("host", "namespaces", "landlock", "seccomp", "uid"))
def _read_other_plugin(targets: Targets) -> Outcome:
    try:
        _memory_of(targets.other_pid, 0, 1)
    except OSError as error:
        if error.errno != 14:  # EFAULT: as above
            raise
    return through("may read it")


@attack("other-plugin-environment", "Read the environment of another plugin.", stopped_by=("host", "namespaces", "landlock", "uid"))
def _other_plugin_environment(targets: Targets) -> Outcome:
    with open(f"/proc/{targets.other_pid}/environ", "rb") as file:
        content = file.read()
    return through(f"read {len(content)} bytes") if content else stopped("it is empty")


@attack("victim-descriptor", "Take a descriptor out of another process.", stopped_by=("namespaces", "landlock", "seccomp"))
def _victim_descriptor(targets: Targets) -> Outcome:
    return _taken(targets, syscall("pidfd_open", targets.victim_pid, 0), targets.victim_descriptor)


@attack("host-descriptor", "Take a descriptor out of the host.", stopped_by=("namespaces", "landlock", "seccomp", "uid"))
def _host_descriptor(targets: Targets) -> Outcome:
    return _taken(targets, syscall("pidfd_open", targets.host_pid, 0), targets.host_descriptor)


@attack(
    "peer-descriptor",
    "Get hold of the host through the channel, and take a descriptor out of it.",
    stopped_by=("namespaces", "landlock", "seccomp", "uid"),
)
def _peer_descriptor(targets: Targets) -> Outcome:
    with socket.socket(fileno=os.dup(3)) as channel:
        try:
            pidfd = struct.unpack("i", channel.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4))[0]
        except OSError as error:
            raise OSError(error.errno, error.strerror, "SO_PEERPIDFD") from error
    return _taken(targets, pidfd, targets.host_descriptor)


@attack("compare-victim", "Ask the kernel what another process shares with this one.", stopped_by=("namespaces", "landlock", "seccomp"))
def _compare_victim(targets: Targets) -> Outcome:
    return through(f"it says {syscall('kcmp', os.getpid(), targets.victim_pid, 0, 0, targets.victim_descriptor)}")


@attack("advise-victim", "Push another process's memory out.", stopped_by=("namespaces", "landlock", "seccomp"), unix=True)
def _advise_victim(targets: Targets) -> Outcome:
    pidfd = syscall("pidfd_open", targets.victim_pid, 0)
    page = targets.victim_address & ~4095
    try:
        syscall("process_madvise", pidfd, ctypes.byref(_span(page, 4096)), 1, 20, 0)  # MADV_COLD
    finally:
        os.close(pidfd)
    return through("called a page of it cold")


@attack("move-victim", "Move another process's memory between nodes.", stopped_by=("namespaces", "landlock", "seccomp"))
def _move_victim(targets: Targets) -> Outcome:
    nodes = ctypes.c_ulong(1)
    syscall("migrate_pages", targets.victim_pid, 64, ctypes.byref(nodes), ctypes.byref(nodes))
    return through("was allowed to")


def _taken(targets: Targets, pidfd: int, wanted: int) -> Outcome:
    try:
        fd = syscall("pidfd_getfd", pidfd, wanted, 0)
    finally:
        os.close(pidfd)
    try:
        content = os.pread(fd, 4096, 0)
    finally:
        os.close(fd)
    return through("took one and read from it") if targets.has_token(content) else stopped("it is not the one")
