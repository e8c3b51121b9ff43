"""The receipt: what isolation a plugin really got, as values and as text.

Pure. Whoever launches fills in what was done; the words about what that is worth stand in ``levels`` and here, so that no launcher
can say more than is true.

Source: feature IS9; docs/reference/permissions.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

from annexe.sandbox.levels import Enforcement, IsolationLevel, enforcement

__all__ = ["IsolationLevel", "Layer", "Receipt", "TreeKill", "receipt_for"]

TreeKill = Literal["hard", "soft", "none"]

_IN_PROCESS_NOTE = "It runs inside the host's own process: it can do all that the host can, and its crash is the host's."
_SAME_UID_NOTES = (
    "It runs as the host's own user: it can read and change all that this user can, the host's state directory and the token of its "
    "control socket included, so it can command the host.",
    "It can signal and stop the host and other plugins, and trace them where the kernel lets a user trace its own.",
)
_OWN_UID_NOTE = "It runs as a user of its own: of files it can read what every user of this machine can read."
_NO_WALLS_NOTE = "It can open network connections, start programs and use every system call: no file, network or syscall wall stands yet."
_SOFT_KILL_NOTE = "Stopping it and its children is soft: a child that leaves the process group on purpose can outlive it."
_NO_LIMITS_NOTE = "Nothing limits the memory, processes or files it takes."
_VERDICTS = {
    IsolationLevel.LIMITS: "For code you trust: crashes, leaks and mistakes stay in the plugin; malice does not.",
    IsolationLevel.NONE: "For code you trust: only a crash stays in the plugin.",
}


@final
@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of isolation, as it is for this plugin."""

    name: str
    state: Literal["on", "off", "soft"]
    detail: str = ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What isolation one plugin got.

    Attributes:
        level: Achieved level.
        uid: User that it runs as; None where there is no such thing, or it is the host itself.
        layers: What was switched on, in the order applied.
        rights: What each right and limit is worth here.
        notes: What the plugin could still do, in sentences for people; the verdict first.
        tree_kill: Whether all that the plugin started ends with it: ``hard`` always, ``soft`` unless it hides on purpose, ``none``
            not at all.
    """

    level: IsolationLevel
    uid: int | None
    layers: tuple[Layer, ...]
    rights: Mapping[str, Enforcement]
    notes: tuple[str, ...]
    tree_kill: TreeKill = "soft"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {
            "level": str(self.level),
            "uid": self.uid,
            "layers": [{"name": layer.name, "state": layer.state, "detail": layer.detail} for layer in self.layers],
            "rights": {name: {"state": str(found.state), "why": found.why} for name, found in self.rights.items()},
            "notes": list(self.notes),
            "tree_kill": self.tree_kill,
        }

    def as_text(self) -> str:
        """Return lines for a terminal."""
        lines = [f"level: {self.level}", f"uid: {'-' if self.uid is None else self.uid}", f"tree kill: {self.tree_kill}", "layers:"]
        lines += [f"  {layer.name}: {layer.state}" + (f" ({layer.detail})" if layer.detail else "") for layer in self.layers]
        lines.append("rights and limits:")
        lines += [f"  {name}: {found.state} ({found.why})" for name, found in self.rights.items()]
        lines.append("notes:")
        lines += [f"  - {note}" for note in self.notes]
        return "\n".join(lines)


def receipt_for(level: IsolationLevel, *, uid: int | None, own_uid: bool, layers: tuple[Layer, ...], in_process: bool = False) -> Receipt:
    """Make the receipt of a launch.

    Args:
        level: What was achieved.
        uid: User that the plugin runs as.
        own_uid: Whether that user is the plugin's alone.
        layers: What was switched on.
        in_process: Whether it runs inside the host's own process.

    Raises:
        SandboxError: For a level that nothing achieves yet.
    """
    rights = enforcement(level, own_uid=own_uid, in_process=in_process)
    if in_process:
        notes: tuple[str, ...] = (_IN_PROCESS_NOTE,)
    else:
        by_user = (_OWN_UID_NOTE,) if own_uid else (*_SAME_UID_NOTES, _SOFT_KILL_NOTE)
        by_limits = () if level is IsolationLevel.LIMITS else (_NO_LIMITS_NOTE,)
        notes = (_VERDICTS[level], *by_user, _NO_WALLS_NOTE, *by_limits)
    # With a user of its own everything of that user is killed, and no new privileges means that it cannot become another.
    tree_kill: TreeKill = "none" if in_process else "hard" if own_uid else "soft"
    return Receipt(level=level, uid=uid, layers=layers, rights=rights, notes=notes, tree_kill=tree_kill)
