"""Start a program as another user without forking the host.

``subprocess`` can change the user only in a forked copy of the host, and copying the page tables of a large host takes tens of
milliseconds; afterwards every page that the host writes to is copied as well. A program of util-linux changes the user in a process of
its own: the host only has to ``vfork``, whose cost does not depend on its size.

``unshare``, told to share everything on, costs 0.6 ms less than ``setpriv``; containers may refuse its system call, and older versions do
not change users. So the first one that is seen to do it is used.

Source: docs/adr/0065-change-the-user-outside-the-host.md.
"""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["as_user"]

_OPTIONS = {
    "unshare": ("--setuid={uid}", "--setgid={gid}", "--"),
    "setpriv": ("--reuid={uid}", "--regid={gid}", "--clear-groups", "--"),
}
_FOLDER = Path("/usr/bin")
_TELL = "cat /proc/self/attr/current 2>/dev/null; exec grep ^Uid: /proc/self/status"
_NOBODY = 65534
_TRIAL_S = 10.0
_PASSING = (signal.SIGKILL, signal.SIGTERM)  # somebody else's doing
_tried: dict[Path, bool] = {}


def as_user(uid: int | None, *, gid: int | None = None, folder: Path = _FOLDER) -> tuple[list[str], dict[str, Any]]:
    """Return what goes before a command, and what goes into ``Popen``, for it to run as this user, in one group alone.

    A program that cannot be executed may show as an exit status, not as an error of ``Popen``; and one that only root can reach may be
    executed: ``setpriv`` gives up the rights of root with the exec itself. What it may do then is that user's business alone.

    Args:
        uid: None: as the host's own user.
        gid: The group; None: the one of the user's number.
        folder: Where ``unshare`` and ``setpriv`` are; where neither changes users, the host is forked.
    """
    if uid is None:
        return [], {}
    gid = uid if gid is None else gid
    for name, options in _OPTIONS.items():
        program = folder / name
        if _is_good(program):
            return [str(program), *(option.format(uid=uid, gid=gid) for option in options)], {}
    return [], {"user": uid, "group": gid, "extra_groups": []}


def _is_good(program: Path) -> bool:
    """Say whether a program changes the user and nothing else that we know of; tried once, unless the trial came to nothing."""
    if program not in _tried:
        tried = _try(program)
        if tried is None:
            return False
        _tried[program] = tried
    return _tried[program]


def _try(program: Path) -> bool | None:
    """Have a program tell what it became; None where that cannot be said now.

    BusyBox has programs of these names that take other options. And a profile of AppArmor that is for ``unshare`` alone takes rights away
    from all that is started by it, bubblewrap among them.
    """
    options = (option.format(uid=_NOBODY, gid=_NOBODY) for option in _OPTIONS[program.name])
    try:
        done = subprocess.run(  # noqa: S603 - a program of the system's
            [str(program), *options, "/bin/sh", "-c", _TELL],
            env={}, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=_TRIAL_S, check=False,
        )  # fmt: skip
    except (FileNotFoundError, PermissionError):
        return False
    except (OSError, subprocess.SubprocessError):
        return None
    if -done.returncode in _PASSING:
        return None
    return done.stdout == _label() + b"Uid:" + f"\t{_NOBODY}".encode() * 4 + b"\n"


def _label() -> bytes:
    """Return how a module of the kernel's security, if there is one, has labelled this process."""
    try:
        return Path("/proc/self/attr/current").read_bytes()
    except OSError:
        return b""
