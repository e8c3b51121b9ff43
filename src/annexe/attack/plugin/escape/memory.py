"""More memory than is allowed, of every kind there is. What is taken is given back at once."""

from __future__ import annotations

import mmap
import os
import resource

from .catalogue import attack
from .children import Crowd
from .outcome import capped, judge, through
from .probes import keep
from .syscalls import syscall

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []

_MIB = 1024 * 1024
_PAGE = 4096
_TIMES = 3  # of what is allowed, at most


@attack("memory-private", "Take more private memory than is allowed.", capped_by=("rlimits", "cgroup"))
def _memory_private(targets: Targets) -> Outcome:
    held: list[bytearray] = []
    try:
        while len(held) * 8 * _MIB < targets.memory_bytes * _TIMES:
            held.append(bytearray(b"\1" * (8 * _MIB)))
        return through(f"touched {len(held) * 8} MiB of {targets.memory_bytes // _MIB}")
    except MemoryError:
        taken = len(held) * 8
        held.clear()
        return capped(f"no more than {taken} MiB of {targets.memory_bytes // _MIB}")


@attack("memory-shared", "Take more shared memory than is allowed.", capped_by=("cgroup",))
def _memory_shared(targets: Targets) -> Outcome:
    size = targets.memory_bytes * _TIMES
    try:
        with mmap.mmap(-1, size, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS) as area:
            _touch(area, size)
        return through(f"touched {size // _MIB} MiB of {targets.memory_bytes // _MIB}")
    except OSError as error:
        return capped(f"{error.strerror}: {size // _MIB} MiB")


@attack("memory-files", "Take memory as files that are in memory alone.", stopped_by=("seccomp",), capped_by=("cgroup",))
def _memory_files(targets: Targets) -> Outcome:
    wanted, taken, held = targets.memory_bytes * _TIMES, 0, []
    block = b"\1" * (4 * _MIB)
    try:
        while taken < wanted:
            fd = syscall("memfd_create", b"taken", 0)
            held.append(fd)
            for _ in range(max(1, targets.disk_bytes // len(block))):
                taken += os.write(fd, block)
        return through(f"wrote {taken // _MIB} MiB of {targets.memory_bytes // _MIB}")
    except OSError as error:
        if taken == 0:
            raise
        return capped(f"{error.strerror} after {taken // _MIB} MiB")
    finally:
        for fd in held:
            os.close(fd)


@attack("memory-shm", "Take memory as files in /dev/shm.", stopped_by=("landlock",), capped_by=("namespaces", "cgroup"))
def _memory_shm(targets: Targets) -> Outcome:
    wanted, taken = targets.memory_bytes * 2, 0
    made: list[str] = []
    block = b"\1" * (4 * _MIB)
    try:
        while taken < wanted:
            path = f"/dev/shm/{targets.marker}.{len(made)}"
            fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
            made.append(path)
            try:
                for _ in range(max(1, targets.disk_bytes // len(block))):
                    taken += os.write(fd, block)
            finally:
                os.close(fd)
        return through(f"wrote {taken // _MIB} MiB of {targets.memory_bytes // _MIB}")
    except OSError as error:
        if taken == 0:
            raise
        return capped(f"{error.strerror} after {taken // _MIB} MiB")
    finally:
        for path in made:
            os.unlink(path)


@attack("memory-segments", "Take memory as segments of System V.", stopped_by=("seccomp",), capped_by=("rlimits", "cgroup"))
def _memory_segments(targets: Targets) -> Outcome:
    import ctypes

    size, taken, held = 32 * _MIB, 0, []
    try:
        while taken < targets.memory_bytes * 2:
            segment = syscall("shmget", 0, size, 0o1600)
            address = syscall("shmat", segment, 0, 0)
            syscall("shmctl", segment, 0, 0)  # gone with its last user
            held.append(address)
            for offset in range(0, size, _PAGE):
                ctypes.c_char.from_address(address + offset).value = b"\1"
            taken += size
        return through(f"touched {taken // _MIB} MiB of {targets.memory_bytes // _MIB}")
    except OSError as error:
        if taken == 0:
            raise
        return capped(f"{error.strerror} after {taken // _MIB} MiB")
    finally:
        for address in held:
            syscall("shmdt", address)


@attack("memory-children", "Take memory in children, each within its own limit.", stopped_by=("seccomp",), capped_by=("cgroup",))
def _memory_children(targets: Targets) -> Outcome:
    each = targets.memory_bytes // 4

    def take() -> list[bytearray]:
        try:
            return [bytearray(b"\1" * _MIB) for _ in range(each // _MIB)]
        except MemoryError as error:
            raise OSError(12, "no memory", "in a child") from error

    with Crowd() as crowd:
        try:
            while len(crowd.pids) * each < targets.memory_bytes * _TIMES:
                crowd.add(take)
        except OSError as error:
            if not crowd.pids:
                raise
            return capped(f"{error.strerror} after {len(crowd.pids)} children")
        wanted, left = len(crowd.pids), crowd.count()
        text = f"{left} of {wanted} children hold {left * each // _MIB} MiB of {targets.memory_bytes // _MIB}"
        return through(text) if left * each > targets.memory_bytes else capped(text)


@attack("memory-locked", "Lock more memory than is allowed, so that it is never paged out.", capped_by=("rlimits",))
def _memory_locked(targets: Targets) -> Outcome:
    import ctypes

    size = min(targets.memory_bytes, 32 * _MIB)
    libc = ctypes.CDLL(None, use_errno=True)
    with mmap.mmap(-1, size, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS) as area:
        view = ctypes.c_char.from_buffer(area)
        result = libc.mlock(ctypes.byref(view), ctypes.c_size_t(size))
        error = ctypes.get_errno()
        libc.munlock(ctypes.byref(view), ctypes.c_size_t(size))
        del view
    if result == 0:
        return through(f"locked {size // _MIB} MiB")
    return capped(f"{os.strerror(error)}: mlock, the limit is {resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]}")


@attack("memory-secret", "Take memory that not even the kernel can look into.", stopped_by=("seccomp",))
def _memory_secret(_targets: Targets) -> Outcome:
    os.close(syscall("memfd_secret", 0))
    return through("was given a descriptor for it")


@attack("pipe-pages", "Use up the room for pipes that all processes of the user share.", stopped_by=("seccomp", "uid"), check="host-pipes")
def _pipe_pages(targets: Targets) -> Outcome:
    import fcntl

    def grow() -> list[int]:
        held: list[int] = []
        grown = False
        for _ in range(max(1, (targets.open_files - 24) // 2)):
            held += os.pipe()
            try:
                fcntl.fcntl(held[-1], 1031, _MIB)  # F_SETPIPE_SZ
                grown = True
            except PermissionError:  # nearly all is used: the pipe as it is takes of the rest
                if not grown and not crowd.pids:
                    raise
        return held

    crowd = Crowd()
    held = grow()
    try:
        for _ in range(5):
            crowd.add(grow)
    except OSError as error:
        if not crowd.pids and error.errno not in (1, 11):
            raise
    keep(held, crowd)
    return judge(f"{len(held) // 2} pipes here and as many in each of {len(crowd.pids)} children")


@attack(
    "watch-instances", "Use up the file watches that all processes of the user share.", stopped_by=("seccomp", "uid"), check="host-watches"
)
def _watch_instances(targets: Targets) -> Outcome:
    def take() -> list[int]:
        held: list[int] = []
        try:
            for _ in range(max(1, targets.open_files - 24)):
                held.append(syscall("inotify_init1", 0))  # noqa: PERF401 - each may be the last
        except OSError as error:
            if error.errno != 24 or not held:  # EMFILE is what is wanted
                raise
        return held

    held = take()
    crowd = Crowd()
    try:
        for _ in range(4):
            crowd.add(take)
    except OSError as error:
        if error.errno not in (1, 11, 24):
            raise
    keep(held, crowd)
    return judge(f"{len(held)} here and as many in each of {len(crowd.pids)} children")


def _touch(area: mmap.mmap, size: int) -> None:
    for offset in range(0, size, _PAGE):
        area[offset] = 1
