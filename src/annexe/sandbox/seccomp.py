"""Which system-call filters a plugin gets, in the order in which they are loaded.

The programs are bytes of this package, made by ``scripts/generate_seccomp.py`` from tables that say what is allowed and why. Nothing is
computed here, and nothing is loaded: that is the stub's part.

Invariants:

* ``allow`` comes last. It refuses ``seccomp`` and ``prctl(PR_SET_SECCOMP)``, so nothing can be loaded after it, and ``landlock_*``, so
  Landlock comes before.
* Nothing but loading the next program has to be possible between the first and the last. A forked copy of a filtered process cannot get
  back what was taken from it.
* All that is loaded is asked for each call and the strictest answer wins; of two error numbers the one of the program loaded later.
* Programs only ever take away, so a plugin without a right has one program more than a plugin with it.

Source: man 2 seccomp; features IS4, IS5 and PE2.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["MACHINES", "program_names", "programs_for"]

MACHINES = frozenset({"aarch64", "x86_64"})
_FILTERS = Path(__file__).parent / "filters"


def programs_for(
    machine: str, *, may_run_programs: bool, may_fork: bool, network: bool, sees_all_files: bool = False
) -> dict[str, bytes] | None:
    """Return the filters of one plugin.

    Args:
        machine: As ``platform.machine()`` says it. A 32-bit Python on a 64-bit kernel is another architecture than that: its first call
            after loading would end it.
        may_run_programs: The right ``subprocess``, or a program that the stub has still to execute.
        may_fork: The right ``subprocess``. Threads can be started without it.
        network: Outgoing connections over TCP. Other sockets, and listening, are never given; pairs of local streams always are.
        sees_all_files: It has no file system of its own, and no network of its own. Landlock does not know of modes, owners and times: a
            plugin could then change those of any file of its user's that it may read. Nor does it know of connecting by sending.

    Returns:
        By name, in loading order, each an array of ``struct sock_filter``, 8 bytes apiece, little endian. None: there are no filters
        for this architecture.
    """
    if machine not in MACHINES:
        return None
    names = program_names(may_run_programs=may_run_programs, may_fork=may_fork, network=network, sees_all_files=sees_all_files)
    return {name: _program(machine, name) for name in names}


def program_names(*, may_run_programs: bool, may_fork: bool, network: bool, sees_all_files: bool = False) -> tuple[str, ...]:
    """Return the names of the filters that ``programs_for`` returns for the same rights, in the same order."""
    return (
        *(() if may_run_programs else ("no-programs",)),
        *(() if may_fork else ("no-children",)),
        *(("no-attributes",) if sees_all_files else ()),
        *(("no-fast-open",) if sees_all_files and network else ()),
        *(() if may_fork or network else ("no-messages",)),
        "no-listening" if network else "no-network",
        "arguments",
        "allow",
    )


@cache
def _program(machine: str, name: str) -> bytes:
    return (_FILTERS / machine / f"{name}.bpf").read_bytes()
