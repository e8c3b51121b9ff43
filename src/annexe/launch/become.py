"""Start a program as another user without forking the host.

``subprocess`` can change the user only in a forked copy of the host, and copying the page tables of a large host takes tens of
milliseconds; afterwards every page that the host writes to is copied as well. A program of util-linux changes the user in a process of
its own: the host only has to ``vfork``, whose cost does not depend on its size.

``unshare``, told to share everything on, costs 0.6 ms less than ``setpriv``; containers may refuse its system call, and older versions do
not change users. So the first one that is seen to do it is used.

Source: docs/adr/0065-change-the-user-outside-the-host.md.
"""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["as_user"]

_OPTIONS = {
    "unshare": ("--setuid={uid}", "--setgid={gid}", "--"),
    "setpriv": ("--reuid={uid}", "--regid={gid}", "--clear-groups", "--"),
}
_FOLDER = Path("/usr/bin")
_TRIAL_S = 10.0


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


@cache
def _is_good(program: Path) -> bool:
    """Try it with the overflow user. BusyBox has programs of these names that take other options."""
    options = (option.format(uid=65534, gid=65534) for option in _OPTIONS[program.name])
    command = [str(program), *options, str(program), "--version"]
    try:
        tried = subprocess.run(  # noqa: S603 - a program of the system's, and itself
            command, env={}, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=_TRIAL_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return tried.returncode == 0 and b"util-linux" in tried.stdout
