"""Who the plugin is, and who it might become."""

from __future__ import annotations

import os

from .catalogue import attack
from .children import run_program
from .outcome import absent, judge, stopped, through
from .probes import read, write
from .syscalls import prctl

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []


@attack("become-root", "Become root by asking.", stopped_by=("namespaces", "seccomp", "uid"), unix=True)
def _become_root(_targets: Targets) -> Outcome:
    os.setresuid(0, 0, 0)
    return through(f"is user {os.geteuid()}")


@attack("become-host", "Become the host's group by asking.", stopped_by=("namespaces", "seccomp", "uid"), unix=True)
def _become_host(_targets: Targets) -> Outcome:
    os.setgroups([0])
    return through(f"has groups {os.getgroups()}")


@attack(
    "setuid-program",
    "Run a program that makes whoever runs it root.",
    stopped_by=("no-new-privileges", "namespaces", "landlock", "seccomp"),
)
def _setuid_program(targets: Targets) -> Outcome:
    if not targets.setuid_program:
        return absent("only a root host can lay such a program out")
    printed = run_program(targets.setuid_program, "-u")
    return through("it ran as root") if printed.strip() == b"0" else stopped(f"it ran as {printed.decode(errors='replace').strip()}")


@attack("new-privileges", "Still be one whom a program may give privileges.", stopped_by=("no-new-privileges",))
def _new_privileges(_targets: Targets) -> Outcome:
    return stopped("the kernel says no for good") if prctl(39) == 1 else through("the kernel would")


@attack("capabilities", "Hold any capability that counts outside of a user namespace.", stopped_by=("namespaces", "uid"), unix=True)
def _capabilities(_targets: Targets) -> Outcome:
    status = dict(line.split(b":\t", 1) for line in read("/proc/self/status").splitlines() if b":\t" in line)
    held = int(status[b"CapEff"], 16) | int(status[b"CapPrm"], 16)
    return through(f"holds {held:#x}") if held else stopped("holds none")


@attack("kernel-root", "Be root as the kernel sees it, whatever the namespace says.", stopped_by=("uid",), unix=True)
def _kernel_root(_targets: Targets) -> Outcome:
    inside, outside = read("/proc/self/uid_map").split()[:2]
    kernel = int(outside) + os.geteuid() - int(inside)
    return through("it is user 0") if kernel == 0 else stopped(f"it is user {kernel}")


@attack(
    "core-pattern", "Have the kernel run a program of one's own at the next crash.", stopped_by=("namespaces", "landlock", "uid"), unix=True
)
def _core_pattern(_targets: Targets) -> Outcome:
    os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))
    return through("opened it for writing, and wrote nothing")


@attack("sysrq", "Command the kernel by /proc/sysrq-trigger.", stopped_by=("namespaces", "landlock", "uid"), unix=True)
def _sysrq(_targets: Targets) -> Outcome:
    os.close(os.open("/proc/sysrq-trigger", os.O_WRONLY))
    return through("opened it for writing, and wrote nothing")


@attack("uid-inheritance", "Find what an earlier plugin of this user left.", stopped_by=("namespaces", "landlock", "uid"), phases=2)
def _uid_inheritance(targets: Targets) -> Outcome:
    path = f"/tmp/{targets.marker}.left"
    if targets.phase == 1:
        write(path, targets.token.encode())
        return judge("left it")
    try:
        return through("the next one read it") if targets.has_token(read(path)) else stopped("it is another's")
    finally:
        try:
            os.unlink(path)
        except OSError:
            pass


@attack("hide", "Make itself unreadable to whoever watches it, or readable to its like.", stopped_by=("seccomp",))
def _hide(_targets: Targets) -> Outcome:
    prctl(4, 1)  # PR_SET_DUMPABLE
    return through("its memory is open to its user again") if prctl(3) == 1 else stopped("it is as it was")
