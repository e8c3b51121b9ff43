"""Start a program as another user without forking the host.

``subprocess`` can change the user only in a forked copy of the host, and copying the page tables of a large host takes tens of
milliseconds; afterwards every page that the host writes to is copied as well. ``setpriv`` of util-linux changes the user in a process of
its own: the host only has to ``vfork``, whose cost does not depend on its size.

Source: docs/adr/0065-change-the-user-outside-the-host.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["as_user"]

_SETPRIV = Path("/usr/bin/setpriv")


def as_user(uid: int | None, *, gid: int | None = None, setpriv: Path = _SETPRIV) -> tuple[list[str], dict[str, Any]]:
    """Return what goes before a command, and what goes into ``Popen``, for it to run as this user, in one group alone.

    With ``setpriv``, a program that cannot be executed shows as an exit status, not as an error of ``Popen``; and one that only root can
    reach is executed, since the rights of root go with the exec itself. What it may do then is that user's business alone.

    Args:
        uid: None: as the host's own user.
        gid: The group; None: the one of the user's number.
        setpriv: The program; where it is missing, or BusyBox's, which has other options, the host is forked.
    """
    if uid is None:
        return [], {}
    gid = uid if gid is None else gid
    if setpriv.resolve().name == "setpriv" and setpriv.is_file():
        return [str(setpriv), f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--"], {}
    return [], {"user": uid, "group": gid, "extra_groups": []}
