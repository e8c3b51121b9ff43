"""Names of groups: whose they are, so that what a dead host left can be told from what a living one uses.

``annexe-PID-START-NAMESPACE-RANDOM.LAUNCH``: number and start time of the host, its process namespace, and a number for each of its
strategies.

Invariants:

* A group is a leftover only if its host's very process is seen to be gone by somebody in the same process namespace. Whatever cannot be
  read, or is of another namespace, counts as alive.
* Nothing of a name can be a path, or a file of the kernel's.

Source: docs/adr/0072-control-groups.md.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from annexe.errors import SandboxError
from annexe.sandbox.cgroup_machine import Machine

__all__ = ["full_name", "is_leftover", "new_owner"]

_LAUNCH = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_OWNED = re.compile(r"annexe-(\d+)-(\d+)-(\d+)-[0-9a-f]{8}\..+")


def new_owner(machine: Machine) -> str:
    """Return what the names of one strategy's groups begin with.

    Raises:
        SandboxError: ``/proc`` does not tell who we are.
    """
    namespace = _namespace(machine)
    try:
        fields = machine.read(machine.proc / "self" / "stat")
    except OSError as error:
        raise SandboxError(f"cannot name control groups: /proc/self/stat cannot be read ({error}); mount /proc.") from error
    return f"annexe-{machine.own_pid()}-{_state_and_start(fields)[1]}-{namespace or 0}-{secrets.token_hex(4)}"


def full_name(owner: str, launch: str) -> str:
    """Return the name of a launch's group.

    Raises:
        ValueError: The name of the launch is not one.
    """
    if not _LAUNCH.fullmatch(launch):
        raise ValueError(f"expected a name of at most 100 small letters, digits, '-', '_' and '.', got {launch!r}")
    return f"{owner}.{launch}"


def is_leftover(name: str, machine: Machine) -> bool:
    """Return whether a group is one of ours whose host is gone for certain."""
    found = _OWNED.fullmatch(name)
    if found is None or int(found[3]) == 0 or int(found[3]) != _namespace(machine):
        return False
    try:
        state, start = _state_and_start(machine.read(machine.proc / found[1] / "stat"))
    except (FileNotFoundError, ProcessLookupError):
        return True
    except (OSError, ValueError, IndexError):
        return False
    return start != int(found[2]) or state in "ZX"


def _state_and_start(stat: str) -> tuple[str, int]:
    # The name in parentheses may hold anything, spaces and parentheses included: everything is counted from its end.
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def _namespace(machine: Machine) -> int | None:
    """Return the number of our process namespace."""
    try:
        target = os.readlink(Path(machine.proc / "self" / "ns" / "pid"))  # noqa: PTH115 - it is no path
    except OSError:
        return None
    digits = re.sub(r"\D", "", target)
    return int(digits) if digits else None
