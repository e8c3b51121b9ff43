"""Run a program under a filter that refuses system calls, as containers, hardened kernels and old ones do.

``python -m tests.support.refusing NAMES PROGRAM…``, where the names are of ``REFUSED``, joined by commas.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

__all__ = ["REFUSED", "main", "refuse"]

_EPERM, _ENOSYS = 1, 38
_NEWUSER = 0x10000000
_LOAD, _EQUAL, _SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBERS = {"x86_64": {"clone": 56, "unshare": 272, "clone3": 435}, "aarch64": {"clone": 220, "unshare": 97, "clone3": 435}}
_LANDLOCK = (444, 445, 446)

REFUSED = {
    "userns": "user namespaces, as a container's profile or kernel.unprivileged_userns_clone=0 does",
    "landlock": "Landlock, as a kernel before 5.13 does",
}


def _program(names: list[str]) -> bytes:
    """Return a filter: load the number; for each refused one look and answer; allow the rest."""
    machine = platform.machine()
    numbers = _NUMBERS[machine]
    steps: list[tuple[int, int, int, int]] = [(_LOAD, 0, 0, 0)]
    for name in names:
        if name == "landlock":
            for number in _LANDLOCK:
                steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
        else:
            # Flags are the first argument of both; clone3 hides them behind a pointer.
            for call in ("clone", "unshare"):
                steps += [(_EQUAL, 0, 4, numbers[call]), (_LOAD, 0, 0, 16), (_SET, 0, 1, _NEWUSER), (_RETURN, 0, 0, _ERRNO | _EPERM)]
                steps += [(_LOAD, 0, 0, 0)]
            steps += [(_EQUAL, 0, 1, numbers["clone3"]), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def refuse(names: list[str]) -> None:
    """Load the filter into this process, for good.

    Raises:
        OSError: The kernel does not take it.
    """
    program = _program(names)
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if os.geteuid() != 0 and prctl(38, 1, 0, 0, 0) != 0:  # PR_SET_NO_NEW_PRIVS
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if prctl(22, 2, fprog, 0, 0) != 0:  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        raise OSError(ctypes.get_errno(), "the kernel takes no filter")


def main() -> None:
    """Refuse, then become the program."""
    names, *program = sys.argv[1:]
    refuse(names.split(","))
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
