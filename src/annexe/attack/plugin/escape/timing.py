"""Time of the processors, and the machine's clock."""

from __future__ import annotations

import ctypes
import os
import time

from .catalogue import attack
from .children import Crowd
from .outcome import capped, judge, stopped, through
from .syscalls import syscall

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []

_SPIN_S = 0.4
_SLACK = 1.4  # a share is enforced in periods of a tenth of a second


@attack("processor-spin", "Take a whole processor, with half of one allowed.", capped_by=("cgroup",))
def _processor_spin(targets: Targets) -> Outcome:
    began, used = time.monotonic(), time.process_time()
    while time.monotonic() - began < _SPIN_S:
        pass
    return _share(targets, time.process_time() - used, time.monotonic() - began)


@attack("processor-children", "Take every processor with children.", stopped_by=("seccomp",), capped_by=("cgroup",))
def _processor_children(targets: Targets) -> Outcome:
    def spin() -> None:
        until = time.monotonic() + _SPIN_S
        while time.monotonic() < until:
            pass

    began, before = time.monotonic(), os.times()
    with Crowd() as crowd:
        for _ in range(3):
            crowd.add(spin)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return _share(targets, used, time.monotonic() - began)


@attack("never-return", "Never return from a call.", stopped_by=("host",), check="host-answers")
def _never_return(_targets: Targets) -> Outcome:
    while True:
        time.sleep(60)


@attack(
    "never-return-busy", "Never return from a call, without ever letting go of the interpreter.", stopped_by=("host",), check="host-answers"
)
def _never_return_busy(_targets: Targets) -> Outcome:
    while True:
        pow(3, 3_000_000)


@attack("clock-set", "Set the machine's clock.", stopped_by=("namespaces", "seccomp"), unix=True)
def _clock_set(_targets: Targets) -> Outcome:
    time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_REALTIME))
    return through("set it to what it was")


@attack("clock-slew", "Make the machine's clock go faster.", stopped_by=("namespaces", "seccomp"), unix=True)
def _clock_slew(_targets: Targets) -> Outcome:
    settings = (ctypes.c_long * 32)(1)  # ADJ_OFFSET, by nothing
    syscall("adjtimex", ctypes.byref(settings))
    return through("was allowed to")


@attack("real-time", "Run before everybody else, as a real-time process.", stopped_by=("seccomp", "rlimits"), unix=True)
def _real_time(_targets: Targets) -> Outcome:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return through("did, and does no more")


@attack("crash", "Crash, and again at once after each restart.", stopped_by=("host",), check="host-answers")
def _crash(_targets: Targets) -> Outcome:
    os.abort()
    return judge("did not crash")


@attack("exit-politely", "Exit in the middle of a call as if all were well.", stopped_by=("host",), check="host-answers")
def _exit_politely(_targets: Targets) -> Outcome:
    os._exit(0)
    return judge("did not exit")


def _share(targets: Targets, used_s: float, wall_s: float) -> Outcome:
    share = used_s / wall_s
    text = f"{share:.2f} processors of {targets.cpu:g}"
    if share > targets.cpu * _SLACK:
        return through(text)
    return capped(text) if share > 0.05 else stopped(text)
