"""Calls that only root may make. They would do nothing of note even then."""

from __future__ import annotations

from .catalogue import attack
from .outcome import through
from .syscalls import syscall

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []


@attack("reboot", "Restart the machine.", stopped_by=("namespaces", "seccomp"), unix=True)
def _reboot(_targets: Targets) -> Outcome:
    syscall("reboot", 0xFEE1DEAD, 672274793, 0, 0)  # turns Ctrl-Alt-Del off, which it is as a rule
    return through("was allowed to")


@attack("load-module", "Load a module into the kernel.", stopped_by=("namespaces", "seccomp"), unix=True)
def _load_module(_targets: Targets) -> Outcome:
    try:
        syscall("init_module", b"", 0, b"")
    except OSError as error:
        if error.errno != 8:  # ENOEXEC: it was looked at, so it was allowed
            raise
    return through("was allowed to")


@attack("rename-machine", "Rename the machine.", stopped_by=("namespaces", "seccomp"), unix=True)
def _rename_machine(targets: Targets) -> Outcome:
    name = targets.host_name.encode()
    syscall("sethostname", name, len(name))
    return through("gave it the name it has")


@attack("swap", "Make a file of one's own the machine's swap.", stopped_by=("namespaces", "seccomp"), unix=True)
def _swap(_targets: Targets) -> Outcome:
    try:
        syscall("swapon", b"/nonexistent", 0)
    except OSError as error:
        if error.errno != 2:  # ENOENT: it was looked for, so it was allowed
            raise
    return through("was allowed to")


@attack("accounting", "Have the kernel write down who runs what.", stopped_by=("namespaces", "seccomp"), unix=True)
def _accounting(_targets: Targets) -> Outcome:
    syscall("acct", 0)
    return through("turned it off, which it is as a rule")
