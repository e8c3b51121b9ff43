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


def as_user(uid: int | None, *, setpriv: Path = _SETPRIV) -> tuple[list[str], dict[str, Any]]:
    """Return what goes before a command, and what goes into ``Popen``, for it to run as this user, in the group of that number alone.

    Args:
        uid: None: as the host's own user.
        setpriv: The program; where it is missing, or BusyBox's, which has other options, the host is forked.
    """
    if uid is None:
        return [], {}
    if setpriv.resolve().name == "setpriv" and setpriv.is_file():
        return [str(setpriv), f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"], {}
    return [], {"user": uid, "group": uid, "extra_groups": []}
