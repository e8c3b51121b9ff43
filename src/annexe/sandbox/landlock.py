"""Landlock's ruleset for one plugin, as the stub hands it to the kernel.

Pure: it computes bytes and numbers; the stub makes the calls.

* What a version of Landlock does not know is left out of what it is asked for, never the other way round.
* Nothing may be executed but what the view says; shared libraries are mapped, not executed, and load.
* Device nodes, sockets, pipes and symbolic links cannot be made anywhere: what the host finds in a plugin's folder is files and folders.

Source: landlock(7); docs/adr/0071-walls-are-put-up-by-the-stub.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from annexe.sandbox.view import DEVICES, PROC_FILES, Access, Place

__all__ = ["ruleset"]

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(6))
_MAKE_DIR, _MAKE_REG = 1 << 7, 1 << 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FIRST_RIGHTS = (1 << 13) - 1
_LATER_RIGHTS = ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV))
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_BIND_AND_CONNECT, _CONNECT_TCP = 0b11, 0b10
_NET_ABI, _SCOPES_ABI = 4, 6
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11

_READ = _READ_FILE | _READ_DIR
_RIGHTS: Mapping[Access, int] = {
    Access.READ: _READ,
    Access.RUN: _READ | _EXECUTE,
    Access.WRITE: _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE,
    Access.USE: _READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV,
}


def ruleset(abi: int, places: Iterable[Place], *, private: Iterable[str], ports: Iterable[int] = ()) -> dict[str, Any]:
    """Return what the stub needs: plain values that marshal can hold.

    Args:
        abi: Version of Landlock that the kernel has, 1 or more.
        places: The view.
        private: Folders that nobody else has, for temporary files.
        ports: TCP ports it may connect to.

    Returns:
        ``attr``: ``struct landlock_ruleset_attr`` as far as this version knows it; ``of_files``: the rights that a file can have;
        ``rules``: path and rights, of which a file gets only those that a file can have; ``ports``: ``struct landlock_net_port_attr``
        for each port.
    """
    handled = _FIRST_RIGHTS
    for since, right in _LATER_RIGHTS:
        if abi >= since:
            handled |= right
    network = _BIND_AND_CONNECT if abi >= _NET_ABI else 0
    scopes = _ABSTRACT_SOCKETS_AND_SIGNALS if abi >= _SCOPES_ABI else 0
    fields = (handled, *((network,) if network else ()), *((scopes,) if scopes else ()))
    own = (Place(path, Access.WRITE) for path in private)
    given = [(place.path, _RIGHTS[place.access] & handled) for place in (*places, *own)]
    given += [(path, _RIGHTS[Access.USE] & handled) for path in DEVICES]
    given += [(path, _READ) for path in PROC_FILES]
    return {
        "attr": b"".join(field.to_bytes(8, "little") for field in fields),
        "of_files": _OF_FILES & handled,
        "rules": given,
        "ports": [_CONNECT_TCP.to_bytes(8, "little") + port.to_bytes(8, "little") for port in ports] if network else [],
    }
