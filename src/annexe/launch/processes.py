"""What the kernel knows about processes: who is who, who belongs to whom, and how to end them for certain.

Linux only (``/proc`` and pidfds); elsewhere every question is answered with "nothing known". Blocking: call it from a worker thread.

Invariants:

* No process is ever signalled by its number alone. A pidfd is opened first, then what was known about the process is checked again,
  and the signal goes through the pidfd; so a number that was given to somebody else meanwhile is never hit.
* Zombies count as gone: they hold nothing and cannot be killed.

Source: feature LC8; docs/adr/0033-finding-descendants.md.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from annexe.launch.become import as_user

__all__ = [
    "ProcessIdentity",
    "identity_of",
    "is_alive",
    "is_ending",
    "kill_matching",
    "kill_user",
    "open_pidfd",
    "parent_of",
    "pid_of_pidfd",
    "read_proc",
    "tag_of",
    "uids_in_use",
]

_PROC = Path("/proc")
_PF_EXITING = 0x4
_TAG_LINE = b"Max realtime timeout"
_MAX_FILE_BYTES = 8192  # the kernel gives these files whole in one read


@final
@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process for all time, unlike its number, which is given out again.

    Attributes:
        pid: Its number.
        start_ticks: When it started, in clock ticks since boot.
        boot_id: Which boot.
    """

    pid: int
    start_ticks: int
    boot_id: str


def read_proc(pid: int, name: str) -> bytes:
    """Return a file of a process; empty once the process is gone."""
    # Bare system calls: this runs for every process of the machine at each launch under a uid of its own.
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
    try:
        return os.read(fd, _MAX_FILE_BYTES)
    except ProcessLookupError:
        return b""
    finally:
        os.close(fd)


def _state_and_start(pid: int) -> tuple[str, int] | None:
    # The name in parentheses may hold anything, spaces and parentheses included: everything is counted from its end.
    fields = read_proc(pid, "stat").rpartition(b")")[2].split()
    return (fields[0].decode(), int(fields[19])) if len(fields) > 19 else None


def _boot_id() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def identity_of(pid: int) -> ProcessIdentity | None:
    """Return the identity of a live process; None when there is none, or on a system without ``/proc``."""
    known = _state_and_start(pid)
    return ProcessIdentity(pid, known[1], _boot_id()) if known is not None and known[0] not in "ZX" else None


def is_alive(identity: ProcessIdentity) -> bool:
    """Return whether that very process still runs."""
    return identity_of(identity.pid) == identity


def is_ending(pid: int) -> bool:
    """Return whether a process is gone or on its way out: it leaves its control group before it is a zombie."""
    fields = read_proc(pid, "stat").rpartition(b")")[2].split()
    return len(fields) <= 6 or fields[0] in (b"Z", b"X") or bool(int(fields[6]) & _PF_EXITING)


def parent_of(pid: int) -> int | None:
    """Return the parent of a process; None when there is none."""
    fields = read_proc(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if len(fields) > 1 else None


def pid_of_pidfd(pidfd: int) -> int | None:
    """Return the number of the live process that a handle stands for; None for what is no such handle."""
    for line in read_proc(os.getpid(), f"fdinfo/{pidfd}").splitlines():
        name, _, value = line.partition(b":")
        if name == b"Pid" and int(value) > 0:
            return int(value)
    return None


def _uid_of(pid: int) -> int | None:
    """Return the real user of a live process.

    The owner of its folder in ``/proc`` would be cheaper to ask, but is root for a process that hides, whoever runs it.
    """
    status = read_proc(pid, "status")
    before, found, after = status.partition(b"\nUid:")
    return int(after.split(None, 1)[0]) if found and b"\nState:\tZ" not in before else None


def tag_of(pid: int) -> int | None:
    """Return the tag a live process was launched with, or inherited; None when it has none."""
    line = read_proc(pid, "limits").partition(_TAG_LINE)[2].split(None, 1)
    if not line or line[0] == b"unlimited":
        return None
    return int(line[0]) if identity_of(pid) is not None else None


def _pids() -> Iterator[int]:
    with contextlib.suppress(FileNotFoundError):
        yield from (int(name) for name in os.listdir(_PROC) if name.isdigit())  # noqa: PTH208 - names only; this runs often


def uids_in_use() -> set[int]:
    """Return the real users of all live processes."""
    return {uid for uid in map(_uid_of, _pids()) if uid is not None}


def kill_matching(matches: Callable[[int], bool], *, deadline_s: float, group: int | None = None) -> tuple[int, bool]:
    """Kill every process that matches, and whatever matching they start meanwhile, until none is left.

    Args:
        matches: Asked with a number; asked again once that number is pinned by a pidfd.
        deadline_s: Longest time for all of it.
        group: A process group that was sent SIGKILL already; its members are waited for but not counted.

    Returns:
        How many were killed, and whether none is left.
    """
    killed: set[int] = set()
    give_up_at = time.monotonic() + deadline_s
    while matched := [pid for pid in _pids() if matches(pid)]:
        left_s = give_up_at - time.monotonic()
        if left_s <= 0:
            return len(killed), False
        killed.update(pid for pid in matched if not _is_in_group(pid, group))
        pinned = [fd for pid in matched if (fd := _kill_pinned(pid, matches)) is not None]
        # Without any pidfd they ended by themselves meanwhile, or are not ours to kill: look again, but do not spin.
        _wait_all(pinned, left_s if pinned else 0.0)
        if not pinned:
            time.sleep(0.005)
    return len(killed), True


def open_pidfd(pid: int) -> int | None:
    """Return a pidfd; None where there are none: another system, a kernel before 5.3, a Python built without, a filter that refuses them.

    Raises:
        ProcessLookupError: There is no such process.
    """
    try:
        return os.pidfd_open(pid)
    except AttributeError:
        return None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
        return None


def _is_in_group(pid: int, group: int | None) -> bool:
    try:
        return os.getpgid(pid) == group
    except ProcessLookupError:
        return True  # it ended by itself: nothing that anybody had to hunt


def _kill_pinned(pid: int, matches: Callable[[int], bool]) -> int | None:
    """Return the pidfd of a process that has been sent SIGKILL; None when it is gone or no longer matches."""
    try:
        fd = open_pidfd(pid)
    except ProcessLookupError:
        return None
    if fd is None:
        return None
    try:
        if matches(pid):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            return fd
    except (ProcessLookupError, PermissionError):
        pass
    os.close(fd)
    return None


def _wait_all(pidfds: list[int], timeout_s: float) -> None:
    """Wait until all have ended, then close them."""
    poll = select.poll()
    for fd in pidfds:
        poll.register(fd, select.POLLIN)
    waiting, give_up_at = set(pidfds), time.monotonic() + timeout_s
    while waiting and (events := poll.poll(max(0.0, give_up_at - time.monotonic()) * 1000)):
        for fd, _ in events:
            poll.unregister(fd)
            waiting.discard(fd)
    for fd in pidfds:
        os.close(fd)


def kill_user(uid: int, *, deadline_s: float, group: int | None = None) -> tuple[int, bool]:
    """Kill everything that runs as a uid of our own, and verify. Needs root.

    One ``kill(-1)`` as that user takes the kernel's list of processes under one lock, so that not even a fork bomb outruns it.

    Args:
        uid: Not 0.
        deadline_s: Longest time for all of it.
        group: A process group that was sent SIGKILL already; its members are waited for but not counted.

    Returns:
        How many processes there were, and whether none is left.

    Raises:
        ValueError: For uid 0.
    """
    if uid == 0:
        raise ValueError("expected a plugin's uid, got 0")
    found = [pid for pid in _pids() if _uid_of(pid) == uid]
    if not found:
        return 0, True
    hunted = sum(not _is_in_group(pid, group) for pid in found)
    become, user = as_user(uid)
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(  # noqa: S603 - nothing in it is anybody else's
            [*become, "/bin/sh", "-c", "kill -KILL -1"], cwd="/", env={}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, timeout=deadline_s, check=False, **user,
        )  # fmt: skip
    _, gone = kill_matching(lambda pid: _uid_of(pid) == uid, deadline_s=deadline_s)
    return hunted, gone
