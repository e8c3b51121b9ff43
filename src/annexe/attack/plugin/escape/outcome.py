"""What came of an attack, as the attacker sees it.

* ``through``: the effect was had, not merely hoped for: content was read, bytes were really written to.
* ``stopped``: refused, with what refused it.
* ``capped``: had in part, and no more than is allowed.
* ``judge``: only the host can see whether it worked.
* ``absent``: there is nothing here to attack.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from typing import Any

    Outcome = dict[str, Any]

__all__ = ["absent", "capped", "judge", "refused", "stopped", "through"]


def through(detail: str) -> Outcome:
    """Return that the attack worked."""
    return {"verdict": "through", "detail": detail, "facts": {}}


def stopped(detail: str) -> Outcome:
    """Return that the attack was refused."""
    return {"verdict": "stopped", "detail": detail, "facts": {}}


def capped(detail: str) -> Outcome:
    """Return that the attack got only what is allowed."""
    return {"verdict": "capped", "detail": detail, "facts": {}}


def judge(detail: str, **facts: object) -> Outcome:
    """Return that the host must look: at what its check of this attack looks at, with these facts."""
    return {"verdict": "judge", "detail": detail, "facts": facts}


def absent(detail: str) -> Outcome:
    """Return that there is nothing here to attack."""
    return {"verdict": "absent", "detail": detail, "facts": {}}


def refused(error: OSError) -> Outcome:
    """Return what a refusal of the kernel says: its name, and of what."""
    from errno import errorcode

    name = errorcode.get(error.errno or 0, str(error.errno))
    return stopped(f"{name}: {error.filename or error.strerror}")
