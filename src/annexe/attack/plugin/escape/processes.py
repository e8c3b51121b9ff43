"""Processes: too many of them, ones that stay, and settings of those that belong to others."""

from __future__ import annotations

import os
import resource
import signal
import time

from .catalogue import attack
from .children import LIFE_S, Crowd, bound, in_child
from .outcome import capped, judge, stopped, through
from .syscalls import prctl, syscall

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_CHASE_S = 6.0


@attack("fork-bomb", "Start more processes than are allowed.", stopped_by=("seccomp",), capped_by=("rlimits", "cgroup"))
def _fork_bomb(targets: Targets) -> Outcome:
    wanted = min(300, targets.tasks * 2)
    with Crowd() as crowd:
        try:
            for _ in range(wanted):
                crowd.add()
        except OSError as error:
            if not crowd.pids:
                raise
            return capped(f"{error.strerror} after {len(crowd.pids)}")
        return through(f"{len(crowd.pids)} at once, of {targets.tasks}")


@attack("thread-bomb", "Start more threads than are allowed.", capped_by=("rlimits", "cgroup"))
def _thread_bomb(targets: Targets) -> Outcome:
    import _thread

    _thread.stack_size(64 * 1024)
    wanted = min(300, targets.tasks * 2)
    started, gate = 0, _thread.allocate_lock()
    gate.acquire()

    def wait() -> None:
        with gate:
            pass

    try:
        for _ in range(wanted):
            _thread.start_new_thread(wait, ())
            started += 1
        return through(f"{started} at once, of {targets.tasks}")
    except RuntimeError as error:
        return capped(f"{error} after {started}")
    finally:
        gate.release()


@attack(
    "daemon",
    "Leave a process behind that has left its group, session and parent.",
    stopped_by=("host", "namespaces", "seccomp"),
    check="left-alive",
)
def _daemon(targets: Targets) -> Outcome:
    _leave(targets, _linger)
    return judge("left one")


@attack(
    "deaf-daemon",
    "Leave a process behind that ignores every signal it can.",
    stopped_by=("host", "namespaces", "seccomp"),
    check="left-alive",
)
def _deaf_daemon(targets: Targets) -> Outcome:
    def stay() -> NoReturn:
        for number in range(1, 64):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                continue
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.valid_signals()) - {signal.SIGALRM})
        _linger()

    _leave(targets, stay)
    return judge("left one")


@attack(
    "chase",
    "Leave a process behind that forks and dies all the time, so that no number of it is ever up to date.",
    stopped_by=("namespaces", "seccomp", "cgroup", "uid"),
    check="still-beats",
)
def _chase(targets: Targets) -> Outcome:
    def run() -> NoReturn:
        until = time.monotonic() + _CHASE_S
        try:
            beats = os.open(os.path.join(targets.open_folder, targets.marker), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        except OSError:
            beats = -1
        os.fork()
        os.fork()
        while time.monotonic() < until:
            if syscall("clone", int(signal.SIGCHLD), 0, 0, 0, 0) != 0:  # without Python's own care, which takes time
                os._exit(0)
            if beats >= 0:
                os.write(beats, b".")
        os._exit(0)

    _leave(targets, run)
    return judge("left one")


@attack("stopped-daemon", "Leave a process behind that is stopped.", stopped_by=("host", "namespaces", "seccomp"), check="left-alive")
def _stopped_daemon(targets: Targets) -> Outcome:
    def stop() -> NoReturn:
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)

    _leave(targets, stop)
    return judge("left one")


@attack(
    "channel-keeper",
    "Leave a process behind that keeps the channel open.",
    stopped_by=("host", "namespaces", "seccomp"),
    check="left-alive",
)
def _channel_keeper(targets: Targets) -> Outcome:
    _leave(targets, _linger, keeps=3)
    os._exit(0)


@attack("victim-priority", "Make another process slow.", stopped_by=("namespaces", "seccomp"))
def _victim_priority(targets: Targets) -> Outcome:
    os.setpriority(os.PRIO_PROCESS, targets.victim_pid, 19)
    return through(f"its niceness is {os.getpriority(os.PRIO_PROCESS, targets.victim_pid)}")


@attack("victim-scheduling", "Give another process the idle scheduling class.", stopped_by=("namespaces", "seccomp"))
def _victim_scheduling(targets: Targets) -> Outcome:
    os.sched_setscheduler(targets.victim_pid, os.SCHED_IDLE, os.sched_param(0))
    return (
        through("it runs when nobody else does") if os.sched_getscheduler(targets.victim_pid) == os.SCHED_IDLE else stopped("it does not")
    )


@attack("victim-processors", "Move another process to one processor.", stopped_by=("namespaces", "seccomp"))
def _victim_processors(targets: Targets) -> Outcome:
    own = min(os.sched_getaffinity(0))
    os.sched_setaffinity(targets.victim_pid, {own})
    return through(f"it runs on processor {own}")


@attack("victim-limits", "Lower another process's limits.", stopped_by=("namespaces", "seccomp"))
def _victim_limits(targets: Targets) -> Outcome:
    hard = resource.prlimit(targets.victim_pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(targets.victim_pid, resource.RLIMIT_NOFILE, (17, hard))
    return through("it may open 17 files")


@attack("victim-out-of-memory", "Make another process the first that the kernel kills.", stopped_by=("namespaces", "landlock"))
def _victim_out_of_memory(targets: Targets) -> Outcome:
    with open(f"/proc/{targets.victim_pid}/oom_score_adj", "w") as file:
        file.write("999")
    return through("it is the first now")


@attack("own-limits", "Raise one's own limits.", stopped_by=("rlimits",), unix=True)
def _own_limits(_targets: Targets) -> Outcome:
    for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        if resource.getrlimit(which)[1] != resource.RLIM_INFINITY:
            try:
                resource.setrlimit(which, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            except ValueError as error:
                return stopped(str(error))
    return through("there is none any more")


@attack("own-priority", "Take more of the processor by a better niceness.", stopped_by=("seccomp",), unix=True)
def _own_priority(_targets: Targets) -> Outcome:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, before - 1)
    return through(f"from {before} to {before - 1}")


@attack("core-dump", "Have the kernel write the memory of a dying child to disk.", stopped_by=("rlimits", "seccomp"))
def _core_dump(targets: Targets) -> Outcome:
    def die() -> bytes:
        os.chdir(targets.work)
        prctl(4, 1)  # PR_SET_DUMPABLE
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
        if hard == 0:
            raise OSError(1, "no core is allowed", "RLIMIT_CORE")
        os.kill(os.getpid(), signal.SIGSEGV)
        return b""

    try:
        in_child(die)
    except ChildProcessError:
        cores = [name for name in os.listdir(targets.work) if name.startswith("core")]
        for name in cores:
            os.unlink(os.path.join(targets.work, name))
        return through(f"there is {cores[0]}") if cores else stopped("it died without one")
    return stopped("it did not die")


def _leave(targets: Targets, act: Callable[[], NoReturn], *, keeps: int = -1) -> None:
    """Start a grandchild that nobody waits for, bounded in time alone; return when it is there and has the name it is known by."""
    reader, writer = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:
        raise OSError(error.errno, error.strerror, "fork") from error
    if pid == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                bound()
                prctl(_PR_SET_PDEATHSIG, 0)
                prctl(_PR_SET_NAME, targets.marker.encode() + b"\0")
                os.write(writer, b".")
                for fd in range(64):
                    if fd != keeps:
                        try:
                            os.close(fd)
                        except OSError:
                            continue
                act()
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    started = os.read(reader, 1)
    os.close(reader)
    if not started:
        raise OSError(1, "no grandchild was to be had", "fork")


def _linger() -> NoReturn:
    time.sleep(LIFE_S)
    os._exit(0)
