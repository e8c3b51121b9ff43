"""Signals to others, and deafness to one's own."""

from __future__ import annotations

import ctypes
import os
import signal
import time

from .catalogue import attack
from .outcome import capped, judge, stopped, through
from .syscalls import syscall

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []

_SIGNAL = 40  # of the real-time ones, which queue
_SIGNALS = 4096


@attack("kill-victim", "Kill another process of the same user.", stopped_by=("namespaces", "landlock"), check="victim-ended")
def _kill_victim(targets: Targets) -> Outcome:
    os.kill(targets.victim_pid, signal.SIGKILL)
    return judge("sent it")


@attack(
    "kill-victim-by-descriptor",
    "Kill another process through a descriptor of it.",
    stopped_by=("namespaces", "landlock", "seccomp"),
    check="victim-ended",
)
def _kill_victim_by_descriptor(targets: Targets) -> Outcome:
    pidfd = syscall("pidfd_open", targets.victim_pid, 0)
    try:
        syscall("pidfd_send_signal", pidfd, int(signal.SIGKILL), 0, 0)
    finally:
        os.close(pidfd)
    return judge("sent it")


@attack(
    "kill-victim-by-file",
    "Kill another process by making it the owner of a file with news.",
    stopped_by=("namespaces", "landlock"),
    check="victim-ended",
)
def _kill_victim_by_file(targets: Targets) -> Outcome:
    import fcntl

    reader, writer = os.pipe()
    fcntl.fcntl(reader, 10, int(signal.SIGKILL))  # F_SETSIG
    fcntl.fcntl(reader, fcntl.F_SETOWN, targets.victim_pid)
    fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    os.write(writer, b"x")
    time.sleep(0.01)
    os.close(reader)
    os.close(writer)
    return judge("the kernel was to send it")


@attack("stop-victim", "Stop another process.", stopped_by=("namespaces", "landlock"), check="victim-ended")
def _stop_victim(targets: Targets) -> Outcome:
    os.kill(targets.victim_pid, signal.SIGSTOP)
    return judge("sent it")


@attack("signal-host", "Send a signal to the host.", stopped_by=("namespaces", "landlock", "uid"))
def _signal_host(targets: Targets) -> Outcome:
    os.kill(targets.host_pid, 0)  # asks for the right alone
    return through("was allowed to")


@attack("signal-other-plugin", "Send a signal to another plugin.", stopped_by=("namespaces", "landlock", "uid"))
def _signal_other_plugin(targets: Targets) -> Outcome:
    os.kill(targets.other_pid, 0)
    return through("was allowed to")


@attack("signal-host-group", "Send a signal to the host's process group.", stopped_by=("namespaces", "landlock", "uid"))
def _signal_host_group(targets: Targets) -> Outcome:
    group = os.getpgid(targets.host_pid)
    if group == 0:  # to a signal that is the sender's own
        return stopped("the host's has no number in here")
    os.killpg(group, 0)
    return through("was allowed to")


@attack("signal-everybody", "Send a signal to every process there is.", stopped_by=("namespaces", "landlock"))
def _signal_everybody(_targets: Targets) -> Outcome:
    os.kill(-1, 0)
    return through("somebody would have had it")


@attack("shared-group", "Share the host's process group or session, and its Ctrl-C with them.", stopped_by=("host",))
def _shared_group(targets: Targets) -> Outcome:
    if os.getsid(0) == 0 or os.getpgid(0) == 0:
        return stopped("they are nobody's in here")
    try:
        theirs = os.getpgid(targets.host_pid), os.getsid(targets.host_pid)
    except OSError:
        return stopped("the host is not in sight")
    return through("it does") if os.getpgid(0) == theirs[0] or os.getsid(0) == theirs[1] else stopped("it has its own")


@attack(
    "pending-signals",
    "Queue signals to itself until no process of its user can be sent any more, or have a timer.",
    capped_by=("rlimits",),
)
def _pending_signals(_targets: Targets) -> Outcome:
    information = (ctypes.c_int * 32)(_SIGNAL, 0, -1)  # siginfo_t: the signal, no error, queued by a process
    signal.pthread_sigmask(signal.SIG_BLOCK, {_SIGNAL})
    sent = 0
    try:
        while sent < _SIGNALS:
            syscall("rt_sigqueueinfo", os.getpid(), _SIGNAL, ctypes.byref(information))
            sent += 1
        return through(f"{sent} wait")
    except OSError as error:
        if sent == 0:
            raise
        return capped(f"{error.strerror} after {sent}")
    finally:
        for _ in range(sent):
            signal.sigtimedwait({_SIGNAL}, 0)


@attack("deaf-to-the-end", "Ignore every request and signal to end.", stopped_by=("host",), check="left-alive")
def _deaf_to_the_end(targets: Targets) -> Outcome:
    from .syscalls import prctl

    prctl(15, targets.marker.encode() + b"\0")  # PR_SET_NAME
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.valid_signals()))
    targets.ctx._runner.stop = lambda: time.sleep(60)  # type: ignore[method-assign]
    return judge("hears nothing")


@attack("stop-oneself", "Stop itself, and so never answer.", stopped_by=("host",), check="host-answers")
def _stop_oneself(_targets: Targets) -> Outcome:
    os.kill(os.getpid(), signal.SIGSTOP)
    return judge("went on")
