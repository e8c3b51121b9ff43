"""Parts of the kernel that a plugin has no business with, each with a history of holes."""

from __future__ import annotations

import ctypes
import mmap
import os

from .catalogue import attack
from .outcome import absent, stopped, through
from .syscalls import IS_X86_64, syscall

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []


@attack("keyring", "Put a key into the kernel's keyring.", stopped_by=("seccomp",))
def _keyring(targets: Targets) -> Outcome:
    key = syscall("add_key", b"user", targets.marker.encode(), b"x", 1, -2)  # KEY_SPEC_PROCESS_KEYRING
    return through(f"it has number {key}")


@attack("bpf", "Load a program into the kernel.", stopped_by=("seccomp",), unix=True)
def _bpf(_targets: Targets) -> Outcome:
    attributes = (ctypes.c_uint32 * 32)(1, 4, 4, 1)  # BPF_MAP_TYPE_HASH
    os.close(syscall("bpf", 0, ctypes.byref(attributes), ctypes.sizeof(attributes)))
    return through("made a map")


@attack("performance-events", "Watch the processor through the kernel's counters.", stopped_by=("seccomp",))
def _performance_events(_targets: Targets) -> Outcome:
    attributes = (ctypes.c_uint32 * 32)(1, 128, 1, 0)  # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK
    attributes[10] = 0b1100001  # disabled, without kernel and hypervisor
    os.close(syscall("perf_event_open", ctypes.byref(attributes), 0, -1, -1, 0))
    return through("was given a counter")


@attack("page-faults", "Handle page faults oneself, which makes races in the kernel easy to win.", stopped_by=("seccomp",))
def _page_faults(_targets: Targets) -> Outcome:
    os.close(syscall("userfaultfd", os.O_CLOEXEC | 1))  # UFFD_USER_MODE_ONLY
    return through("was given a descriptor for them")


@attack("asynchronous-files", "Use the old interface for asynchronous files.", stopped_by=("seccomp",))
def _asynchronous_files(_targets: Targets) -> Outcome:
    context = ctypes.c_ulong()
    syscall("io_setup", 4, ctypes.byref(context))
    return through("was given a context")


@attack("file-events", "Watch files over a whole file system.", stopped_by=("seccomp",))
def _file_events(_targets: Targets) -> Outcome:
    os.close(syscall("fanotify_init", 0x200, os.O_RDONLY))  # FAN_REPORT_FID
    return through("was given a descriptor for them")


@attack("watch-home", "Watch who does what in the host's home.", stopped_by=("namespaces", "seccomp"))
def _watch_home(targets: Targets) -> Outcome:
    fd = syscall("inotify_init1", os.O_NONBLOCK)
    try:
        syscall("inotify_add_watch", fd, targets.home.encode(), 0xFFF)
    finally:
        os.close(fd)
    return through("watched it")


@attack("personality", "Turn off the random layout of memory.", stopped_by=("seccomp",))
def _personality(_targets: Targets) -> Outcome:
    before = syscall("personality", 0xFFFFFFFF)
    syscall("personality", before | 0x0040000)  # ADDR_NO_RANDOMIZE
    after = syscall("personality", 0xFFFFFFFF)
    return through("turned it off") if after & 0x0040000 else stopped("it is as it was")


@attack("memory-policy", "Ask for the machine's memory nodes.", stopped_by=("seccomp",))
def _memory_policy(_targets: Targets) -> Outcome:
    mode = ctypes.c_int()
    syscall("get_mempolicy", ctypes.byref(mode), 0, 0, 0, 0)
    return through(f"its policy is {mode.value}")


@attack("page-gift", "Give pages to the kernel, as in holes of pipes.", stopped_by=("seccomp",))
def _page_gift(_targets: Targets) -> Outcome:
    reader, writer = os.pipe()
    page = ctypes.create_string_buffer(64)
    vector = (ctypes.c_uint64 * 2)(ctypes.addressof(page), 64)
    try:
        given = syscall("vmsplice", writer, ctypes.byref(vector), 1, 0)
    finally:
        os.close(reader)
        os.close(writer)
    return through(f"gave {given} bytes")


@attack("segment-table", "Change the processor's table of segments.", stopped_by=("seccomp",))
def _segment_table(_targets: Targets) -> Outcome:
    if not IS_X86_64:
        return absent("this machine's processor has none")
    buffer = ctypes.create_string_buffer(16)
    return through(f"read {syscall('modify_ldt', 0, buffer, 16)} bytes of it")


@attack("old-calls", "Make calls of 32 bits, which a filter for 64 bits does not know.", stopped_by=("seccomp",))
def _old_calls(_targets: Targets) -> Outcome:
    if not IS_X86_64:
        return absent("this machine's processor has none")
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x5b\xc3")  # push rbx; mov eax, 20 (getpid); int 0x80; pop rbx; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    answer = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    return through("the kernel answered one") if answer == os.getpid() else stopped(f"it answered {answer}")
