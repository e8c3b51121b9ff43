"""What one instance leaves to the next, past the end of its process."""

from __future__ import annotations

import ctypes
import os

from .catalogue import attack
from .outcome import judge, stopped, through
from .probes import read, write
from .syscalls import syscall

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []

_IPC_CREAT, _IPC_RMID = 0o1000, 0


def _key(targets: Targets) -> int:
    return int(targets.token[-7:], 16) + 1


@attack("leave-work-folder", "Find the private folder of the instance before.", stopped_by=("host",), phases=2)
def _leave_work_folder(targets: Targets) -> Outcome:
    path = os.path.join(targets.work, targets.marker)
    if targets.phase == 1:
        write(path, targets.token.encode())
        return judge("left a file")
    beside = os.path.dirname(targets.work)
    for name in [*os.listdir(targets.work), *_names(beside)]:
        for candidate in (os.path.join(targets.work, targets.marker), os.path.join(beside, name, targets.marker)):
            if os.path.exists(candidate):
                return through("it is still there")
    return stopped("it is gone")


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


@attack("leave-tmp", "Leave a file in /tmp for the next instance.", stopped_by=("namespaces", "landlock"), phases=2)
def _leave_tmp(targets: Targets) -> Outcome:
    return _left_file(targets, f"/tmp/{targets.marker}.next")


@attack("leave-shm", "Leave a file in /dev/shm for the next instance.", stopped_by=("namespaces", "landlock"), phases=2)
def _leave_shm(targets: Targets) -> Outcome:
    return _left_file(targets, f"/dev/shm/{targets.marker}.next")


def _left_file(targets: Targets, path: str) -> Outcome:
    if targets.phase == 1:
        write(path, targets.token.encode(), mode=0o644)
        os.chmod(path, 0o644)
        return judge("left a file")
    return through("the next one found it") if targets.has_token(read(path)) else stopped("it is another's")


@attack("leave-shared-memory", "Leave a segment of shared memory for the next instance.", stopped_by=("namespaces", "seccomp"), phases=2)
def _leave_shared_memory(targets: Targets) -> Outcome:
    size = 4096
    if targets.phase == 1:
        segment = syscall("shmget", _key(targets), size, _IPC_CREAT | 0o666)
        address = syscall("shmat", segment, 0, 0)
        ctypes.memmove(address, targets.token.encode(), len(targets.token))
        syscall("shmdt", address)
        return judge("left one")
    segment = syscall("shmget", _key(targets), size, 0)
    address = syscall("shmat", segment, 0, 0)
    content = ctypes.string_at(address, len(targets.token))
    syscall("shmdt", address)
    return through("the next one read it") if targets.has_token(content) else stopped("it is another's")


@attack("leave-message-queue", "Leave a message queue for the next instance.", stopped_by=("namespaces", "seccomp"), phases=2)
def _leave_message_queue(targets: Targets) -> Outcome:
    if targets.phase == 1:
        syscall("msgget", _key(targets), _IPC_CREAT | 0o666)
        return judge("left one")
    return through(f"the next one found queue {syscall('msgget', _key(targets), 0)}")


@attack("leave-semaphore", "Leave a semaphore for the next instance.", stopped_by=("namespaces", "seccomp"), phases=2)
def _leave_semaphore(targets: Targets) -> Outcome:
    if targets.phase == 1:
        syscall("semget", _key(targets), 1, _IPC_CREAT | 0o666)
        return judge("left one")
    return through(f"the next one found set {syscall('semget', _key(targets), 1, 0)}")


@attack("leave-posix-queue", "Leave a queue of the newer kind for the next instance.", stopped_by=("namespaces", "seccomp"), phases=2)
def _leave_posix_queue(targets: Targets) -> Outcome:
    name = targets.marker.encode()
    if targets.phase == 1:
        fd = syscall("mq_open", name, os.O_CREAT | os.O_RDWR, 0o666, 0)
        os.fchmod(fd, 0o666)
        os.close(fd)
        return judge("left one")
    os.close(syscall("mq_open", name, os.O_RDONLY, 0, 0))
    return through("the next one found it")


@attack("leave-key", "Leave a key in the kernel's ring of its user.", stopped_by=("seccomp", "uid"), phases=2)
def _leave_key(targets: Targets) -> Outcome:
    ring = -4  # KEY_SPEC_USER_KEYRING
    name, content = targets.marker.encode(), targets.token.encode()
    if targets.phase == 1:
        syscall("add_key", b"user", name, content, len(content), ring)
        return judge("left one")
    key = syscall("keyctl", 10, ring, b"user", name, 0)  # KEYCTL_SEARCH
    syscall("keyctl", 3, key, 0, 0, 0)  # KEYCTL_REVOKE
    return through("the next one found it")
